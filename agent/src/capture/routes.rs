//! Routing inside a pod's namespace, so that the answers to deliveries come back.
//!
//! A delivery comes from a foreign address over loopback. Its mark is taken over by the
//! application's accepted socket (`tcp_fwmark_accept`, which serves IPv6 as well) and sends the
//! answers to table 100, where everything is local. Answers that no socket gives, the reset of a
//! port where nobody listens, take the mark of what they answer (`fwmark_reflect`); else they would
//! leave for the client, and the delivery wait for its timeout. No netfilter is needed, no
//! `route_localnet` and no `rp_filter` setting.

use std::{io, net::IpAddr};

use culvert_common::maps::{DELIVERY_MARK, DELIVERY_TABLE};
use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressScope},
        route::{RouteScope, RouteType},
        rule::{RuleAction, RuleMessage},
    },
};
use tokio::task::JoinSet;

use crate::sys::{netns::Netns, sysctl};

/// Where Linux lets a namespace's accepted sockets take over the mark of their SYN.
const FWMARK_ACCEPT: &str = "net/ipv4/tcp_fwmark_accept";
/// Where it lets answers without a socket take over the mark of what they answer.
const FWMARK_REFLECT: [&str; 2] = ["net/ipv4/fwmark_reflect", "net/ipv6/fwmark_reflect"];
/// Where it lets a connection take a port that waits in `TIME_WAIT` (RFC 6191). All steered
/// connections of a pod have one far end, so a port that waits is missing for every destination:
/// at five hundred connections a second the default range would be used up.
const TW_REUSE: &str = "net/ipv4/tcp_tw_reuse";
/// Index of `lo`: the first interface of every namespace.
const LOOPBACK_INDEX: u32 = 1;
/// Before the main table, after the local one.
const RULE_PRIORITY: u32 = 100;

/// What was being done when it failed.
type Step = &'static str;

/// A netlink connection into one namespace; ends with it.
pub(super) struct Routes {
    handle: Handle,
    // Owns the task that reads the netlink socket; dropping the set ends it.
    _reader: JoinSet<()>,
}

impl Routes {
    /// Opens a netlink connection inside the namespace.
    pub(super) fn open(netns: &Netns) -> Result<Self, (Step, io::Error)> {
        let (connection, handle, _messages) = netns
            .run(rtnetlink::new_connection)
            .and_then(|opened| opened)
            .map_err(|error| ("opening netlink", error))?;
        let mut reader = JoinSet::new();
        reader.spawn(connection);
        Ok(Self { handle, _reader: reader })
    }

    /// Global addresses of the namespace's interfaces.
    pub(super) async fn addresses(&self) -> Result<Vec<IpAddr>, (Step, io::Error)> {
        let mut found = Vec::new();
        let mut messages = self.handle.address().get().execute();
        while let Some(message) =
            messages.try_next().await.map_err(|error| ("listing addresses", netlink(error)))?
        {
            if message.header.scope != AddressScope::Universe {
                continue;
            }
            found.extend(
                message
                    .attributes
                    .iter()
                    .find_map(|attribute| match attribute {
                        AddressAttribute::Local(ip) => Some(*ip),
                        _ => None,
                    })
                    .or_else(|| {
                        message.attributes.iter().find_map(|attribute| match attribute {
                            AddressAttribute::Address(ip) => Some(*ip),
                            _ => None,
                        })
                    }),
            );
        }
        Ok(found)
    }

    /// Puts in the rule, the route and the settings; what is there already stays.
    pub(super) async fn add(
        &self,
        netns: &Netns,
        v4: bool,
        v6: bool,
    ) -> Result<(), (Step, io::Error)> {
        let reflect = [v4, v6].into_iter().zip(FWMARK_REFLECT).filter(|(wanted, _)| *wanted);
        let values: Vec<_> = [TW_REUSE, FWMARK_ACCEPT]
            .into_iter()
            .chain(reflect.map(|(_, name)| name))
            .map(|name| (name, "1"))
            .collect();
        netns.run(|| sysctl::set(&values)).map_err(|error| ("entering", error))??;
        for family in families(v4, v6) {
            let added = self.handle.route().add(route(family)).replace().execute().await;
            existing_is_fine(added).map_err(|error| ("adding the local route", error))?;
            self.handle_rule(family, true)
                .await
                .map_err(|error| ("adding the mark's rule", error))?;
        }
        Ok(())
    }

    /// Takes out what [`Self::add`] put in. The settings stay: without the rule they mean nothing.
    pub(super) async fn remove(&self, v4: bool, v6: bool) -> Result<(), (Step, io::Error)> {
        for family in families(v4, v6) {
            self.handle_rule(family, false)
                .await
                .map_err(|error| ("removing the mark's rule", error))?;
            let removed = self.handle.route().del(route(family)).execute().await;
            removed.map_err(|error| ("removing the local route", netlink(error)))?;
        }
        Ok(())
    }

    /// Takes out whatever of it is there.
    pub(super) async fn clear(&self) {
        for (v4, v6) in [(true, false), (false, true)] {
            // Most often there is nothing, which was what was wanted.
            let _ = self.remove(v4, v6).await; // reason: see above
        }
    }

    async fn handle_rule(&self, family: AddressFamily, add: bool) -> io::Result<()> {
        let mut request = self
            .handle
            .rule()
            .add()
            .fw_mark(DELIVERY_MARK)
            .table_id(DELIVERY_TABLE)
            .priority(RULE_PRIORITY)
            .action(RuleAction::ToTable);
        request.message_mut().header.family = family;
        if add {
            return existing_is_fine(request.execute().await);
        }
        let rule: RuleMessage = request.message_mut().clone();
        self.handle.rule().del(rule).execute().await.map_err(netlink)
    }
}

fn families(v4: bool, v6: bool) -> impl Iterator<Item = AddressFamily> {
    [(v4, AddressFamily::Inet), (v6, AddressFamily::Inet6)]
        .into_iter()
        .filter_map(|(wanted, family)| wanted.then_some(family))
}

/// `local default dev lo table 100`.
fn route(family: AddressFamily) -> rtnetlink::packet_route::route::RouteMessage {
    let mut route = RouteMessageBuilder::<IpAddr>::new()
        .table_id(DELIVERY_TABLE)
        .kind(RouteType::Local)
        .scope(RouteScope::Host)
        .output_interface(LOOPBACK_INDEX)
        .build();
    route.header.address_family = family;
    route
}

fn existing_is_fine(done: Result<(), rtnetlink::Error>) -> io::Result<()> {
    match done.map_err(netlink) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        done => done,
    }
}

fn netlink(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}
