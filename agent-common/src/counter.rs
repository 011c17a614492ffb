//! What the kernel programs count.

/// Index into the per-CPU array [`crate::maps::COUNTERS`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Connections of enrolled pods steered into the agent.
    OutboundSteered = 0,
    /// Connections of enrolled pods to destinations outside the mesh, left to the kernel.
    OutboundPassed = 1,
    /// Connections refused because the socket's state could not be stored.
    OutboundStateFull = 2,
    /// Connections let through unsteered because no agent was listening (`whenAgentDown: pass`).
    OutboundAgentDown = 3,
    /// Original destinations handed over to the accepted socket.
    OriginalDstHandedOver = 4,
    /// Accepted sockets whose original destination was lost (evicted, or never steered).
    OriginalDstMissing = 5,
    /// Original destinations that found no room in the flow table.
    FlowTableFull = 6,
    /// SYNs from outside steered to the HBONE listener.
    InboundHbone = 7,
    /// SYNs from outside steered to the plaintext listener.
    InboundPlaintext = 8,
    /// SYNs from outside refused because no agent was listening.
    InboundRefused = 9,
    /// SYNs from outside let through because no agent was listening (`whenAgentDown: pass`).
    InboundAgentDown = 10,
    /// The agent's own deliveries to applications.
    InboundDelivered = 11,
    /// Deliveries that could not be announced: the delivery would loop, so it fails.
    DeliveryTableFull = 12,
    /// Connections refused because their pod should be enrolled and could not be.
    OutboundFenced = 13,
}

impl Counter {
    /// How many counters there are.
    pub const COUNT: u32 = 14;

    /// All counters with the label they bear as a metric, in index order.
    pub const ALL: [(Self, &'static str); Self::COUNT as usize] = [
        (Self::OutboundSteered, "outbound_steered"),
        (Self::OutboundPassed, "outbound_passed"),
        (Self::OutboundStateFull, "outbound_state_full"),
        (Self::OutboundAgentDown, "outbound_agent_down"),
        (Self::OriginalDstHandedOver, "original_dst_handed_over"),
        (Self::OriginalDstMissing, "original_dst_missing"),
        (Self::FlowTableFull, "flow_table_full"),
        (Self::InboundHbone, "inbound_hbone"),
        (Self::InboundPlaintext, "inbound_plaintext"),
        (Self::InboundRefused, "inbound_refused"),
        (Self::InboundAgentDown, "inbound_agent_down"),
        (Self::InboundDelivered, "inbound_delivered"),
        (Self::DeliveryTableFull, "delivery_table_full"),
        (Self::OutboundFenced, "outbound_fenced"),
    ];
}

#[cfg(test)]
mod tests {
    use super::Counter;

    #[test]
    fn labels_stand_in_index_order() {
        for (index, (counter, _)) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, index);
        }
    }
}
