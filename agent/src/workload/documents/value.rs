//! The single values of a rule.

use std::net::IpAddr;

use ipnet::IpNet;

use super::finding::Code;
use crate::config::{is_dns_label, is_dns_name};
use crate::workload::authorization::Pattern;

/// A text of a list as the value that it stands for.
pub(super) enum Parsed<T> {
    /// It is one.
    Value(T),
    /// It is one, but nothing can ever be equal to it; says why.
    EqualToNothing(T, &'static str),
    /// It is none; says what was expected.
    Invalid(Code, &'static str),
}

/// A text, or a begin or end of one.
pub(super) fn pattern(text: &str) -> Parsed<Pattern> {
    if text.is_empty() {
        return Parsed::EqualToNothing(Pattern::new(text), "is empty, which nothing is");
    }
    Parsed::Value(Pattern::new(text))
}

/// A SPIFFE ID without its scheme.
pub(super) fn principal(text: &str) -> Parsed<Pattern> {
    if text.starts_with("spiffe:") {
        return Parsed::EqualToNothing(
            Pattern::new(text),
            "matches nothing: principals are written without `spiffe://`",
        );
    }
    pattern(text)
}

/// `namespace/account`, or an account of the policy's own namespace.
pub(super) fn service_account(text: &str, own: &str) -> Parsed<(String, String)> {
    let (namespace, account) = text.split_once('/').unwrap_or((own, text));
    if !is_dns_label(namespace) || !is_dns_name(account) {
        return Parsed::Invalid(
            Code::InvalidServiceAccount,
            "is no service account; expected `account` or `namespace/account`, without `*`",
        );
    }
    Parsed::Value((namespace.to_owned(), account.to_owned()))
}

/// An address, or a block of them.
pub(super) fn block(text: &str) -> Parsed<IpNet> {
    let block = text.parse::<IpNet>().ok();
    let Some(block) = block.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)) else {
        return Parsed::Invalid(
            Code::InvalidAddress,
            "is no address; expected such as `10.1.0.0/16` or `fd00::1`",
        );
    };
    // Flows are compared in their shorter form.
    let mapped = matches!(block, IpNet::V6(net)
        if net.addr().to_ipv4_mapped().is_some() && net.prefix_len() >= 96);
    if mapped {
        return Parsed::EqualToNothing(
            block,
            "matches nothing: an IPv4 address is written in its own form",
        );
    }
    Parsed::Value(block)
}

/// A port.
pub(super) fn port(text: &str) -> Parsed<u16> {
    match text.parse::<u16>() {
        Ok(port) if port != 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Parsed::Value(port)
        }
        _ => Parsed::Invalid(Code::InvalidPort, "is no port; expected a number from 1 to 65535"),
    }
}
