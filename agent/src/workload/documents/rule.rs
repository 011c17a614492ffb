//! One rule of an AuthorizationPolicy.
//!
//! Istio's form has traps, and each is settled here, so that what comes out is plain algebra
//! ([`crate::workload::authorization`]):
//!
//! - what asks for layer 7: ALLOW leaves the rule out. DENY leaves only the field out, so it
//!   denies more; but a match of which nothing is left matches nothing;
//! - what cannot be read: ALLOW leaves the rule out. DENY reads it as if anything matched;
//! - `source: {}` matches nothing, `from: []` is as if it were absent.

use serde_json::Value;

use super::finding::{Code, Effect, Findings, Path, shown};
use super::value::{self, Parsed};
use super::walk::{Fields, Unreadable, text};
use crate::workload::authorization::{Action, AuthorizationRule, Clause, Match, Term};

/// The most values and matches that the rules of one policy may have: each is looked at for each
/// connection.
const MOST_VALUES: usize = 20_000;

const SOURCE: [&str; 14] = [
    "principals",
    "notPrincipals",
    "namespaces",
    "notNamespaces",
    "serviceAccounts",
    "notServiceAccounts",
    "trustDomains",
    "notTrustDomains",
    "ipBlocks",
    "notIpBlocks",
    "requestPrincipals",
    "notRequestPrincipals",
    "remoteIpBlocks",
    "notRemoteIpBlocks",
];
const SOURCE_HTTP: [&str; 4] =
    ["requestPrincipals", "notRequestPrincipals", "remoteIpBlocks", "notRemoteIpBlocks"];
const OPERATION: [&str; 8] =
    ["ports", "notPorts", "hosts", "notHosts", "methods", "notMethods", "paths", "notPaths"];
const OPERATION_HTTP: [&str; 6] =
    ["hosts", "notHosts", "methods", "notMethods", "paths", "notPaths"];

/// Reads the rules of one policy.
pub(super) struct RuleReader<'a> {
    action: Action,
    // A short service account belongs to it.
    namespace: String,
    findings: &'a mut Findings,
    values: usize,
    // Whether the rule at hand has something for which an ALLOW leaves it out.
    flawed: bool,
}

/// One `source`, `operation` or condition on its way to a match.
#[derive(Default)]
struct Draft {
    matching: Match,
    // Something was asked for that is, or would be if it could be read, layer 4.
    asked: bool,
}

impl<'a> RuleReader<'a> {
    /// For the rules of a policy of this action and namespace.
    pub(super) fn new(action: Action, namespace: &str, findings: &'a mut Findings) -> Self {
        Self { action, namespace: namespace.to_owned(), findings, values: 0, flawed: false }
    }

    /// The rule as it is enforced; none when it is left out.
    ///
    /// # Errors
    /// The policy is too large.
    pub(super) fn rule(
        &mut self,
        index: usize,
        rule: &Value,
        path: Path,
    ) -> Result<Option<AuthorizationRule>, Unreadable> {
        self.flawed = false;
        self.values += 1;
        let mut clauses = Vec::new();
        match Fields::new(rule, path.clone(), &["from", "to", "when"], self.findings) {
            Ok((rule, unknown)) => {
                self.flawed |= unknown;
                clauses.extend(self.any_of(&rule, "from", "source"));
                clauses.extend(self.any_of(&rule, "to", "operation"));
                self.conditions(&rule, &mut clauses);
            }
            Err(Unreadable) => self.flawed = true,
        }
        if self.values > MOST_VALUES {
            let text = format!(
                "more than {MOST_VALUES} values up to here, so nothing is allowed; expected fewer"
            );
            self.findings.push(Effect::Refused, Code::TooLarge, path, text);
            return Err(Unreadable);
        }
        let left_out = self.flawed && self.action == Action::Allow;
        Ok((!left_out).then_some(AuthorizationRule { index, clauses }))
    }

    /// `from` or `to`; none when it asks for nothing.
    fn any_of(&mut self, rule: &Fields<'_>, key: &str, what: &str) -> Option<Clause> {
        let Ok((items, path)) = rule.list(key, self.findings) else {
            self.flawed = true;
            return None;
        };
        let mut clause = Clause::default();
        for (index, item) in items.iter().enumerate() {
            self.values += 1;
            let read = self.item(item, path.index(index), what);
            clause.0.extend(read.unwrap_or_else(|Unreadable| {
                self.flawed = true;
                Some(Match::default())
            }));
        }
        (!items.is_empty()).then_some(clause)
    }

    /// `{source: …}` or `{operation: …}`; none when it matches nothing.
    fn item(&mut self, item: &Value, path: Path, what: &str) -> Result<Option<Match>, Unreadable> {
        let (item, unknown) = Fields::new(item, path, &[what], self.findings)?;
        let (inner, path) = item.get(what).unwrap_or((&Value::Null, item.path.key(what)));
        let (known, http) = match what {
            "source" => (&SOURCE[..], &SOURCE_HTTP[..]),
            _ => (&OPERATION[..], &OPERATION_HTTP[..]),
        };
        let (fields, more_unknown) = Fields::new(inner, path, known, self.findings)?;
        let unknown = unknown || more_unknown;
        self.flawed |= unknown;
        let mut draft = Draft { asked: unknown, ..Draft::default() };
        if what == "source" {
            self.source(&fields, &mut draft);
        } else {
            let (ports, asked) = self.term(&fields, "ports", "notPorts", value::port);
            (draft.matching.destination_ports, draft.asked) = (ports, draft.asked | asked);
        }
        let http: Vec<_> = http.iter().copied().filter(|key| is_there(&fields, key)).collect();
        Ok(self.settle(draft, &http, fields.path))
    }

    fn source(&mut self, fields: &Fields<'_>, draft: &mut Draft) {
        let own = self.namespace.clone();
        let account = |text: &str| value::service_account(text, &own);
        let matching = &mut draft.matching;
        let mut asked = [false; 5];
        (matching.principals, asked[0]) =
            self.term(fields, "principals", "notPrincipals", value::principal);
        (matching.namespaces, asked[1]) =
            self.term(fields, "namespaces", "notNamespaces", value::pattern);
        (matching.trust_domains, asked[2]) =
            self.term(fields, "trustDomains", "notTrustDomains", value::pattern);
        (matching.service_accounts, asked[3]) =
            self.term(fields, "serviceAccounts", "notServiceAccounts", account);
        (matching.source_ips, asked[4]) =
            self.term(fields, "ipBlocks", "notIpBlocks", value::block);
        draft.asked |= asked.contains(&true);
    }

    /// `when`: each condition is a clause of its own.
    fn conditions(&mut self, rule: &Fields<'_>, clauses: &mut Vec<Clause>) {
        let Ok((items, path)) = rule.list("when", self.findings) else {
            self.flawed = true;
            return;
        };
        for (index, item) in items.iter().enumerate() {
            self.values += 1;
            let read = self.condition(item, path.index(index)).unwrap_or_else(|Unreadable| {
                self.flawed = true;
                Some(Match::default())
            });
            clauses.push(Clause(read.into_iter().collect()));
        }
    }

    fn condition(&mut self, item: &Value, path: Path) -> Result<Option<Match>, Unreadable> {
        const KNOWN: [&str; 3] = ["key", "values", "notValues"];
        let (fields, unknown) = Fields::new(item, path, &KNOWN, self.findings)?;
        self.flawed |= unknown;
        let Some((key, _)) = fields.text("key", self.findings)? else {
            let text = "there is none; expected such as `source.namespace`".to_owned();
            self.findings.push(Effect::Refused, Code::Malformed, fields.path.key("key"), text);
            return Err(Unreadable);
        };
        let mut draft = Draft { asked: unknown, ..Draft::default() };
        let matching = &mut draft.matching;
        let (values, not) = ("values", "notValues");
        let asked;
        match key {
            "source.ip" => {
                (matching.source_ips, asked) = self.term(&fields, values, not, value::block);
            }
            "source.namespace" => {
                (matching.namespaces, asked) = self.term(&fields, values, not, value::pattern);
            }
            "source.principal" => {
                (matching.principals, asked) = self.term(&fields, values, not, value::principal);
            }
            "destination.ip" => {
                (matching.destination_ips, asked) = self.term(&fields, values, not, value::block);
            }
            "destination.port" => {
                (matching.destination_ports, asked) = self.term(&fields, values, not, value::port);
            }
            other => {
                let name = shown(other);
                return Ok(self.settle(Draft::default(), &[&name], fields.path));
            }
        }
        if !asked {
            let text = "there is neither `values` nor `notValues`; expected one of them".to_owned();
            self.findings.push(Effect::Refused, Code::EmptyCondition, fields.path, text);
            return Err(Unreadable);
        }
        Ok(Some(draft.matching))
    }

    /// A positive and a negative list, and whether anything stands in them.
    ///
    /// With a value that cannot be read, what must be may be anything, and what must not be is
    /// only the rest: the wider reading, which is the stricter one for DENY. ALLOW leaves the
    /// whole rule out.
    fn term<T>(
        &mut self,
        fields: &Fields<'_>,
        any_of: &str,
        none_of: &str,
        parse: impl Fn(&str) -> Parsed<T>,
    ) -> (Term<T>, bool) {
        let (mut positive, readable, asked) = self.values(fields, any_of, &parse);
        if !readable {
            positive.clear();
        }
        let (negative, _, asked_not) = self.values(fields, none_of, &parse);
        (Term { any_of: positive, none_of: negative }, asked || asked_not)
    }

    /// The values of a list, whether all could be read, and whether there is any.
    fn values<T>(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        parse: &impl Fn(&str) -> Parsed<T>,
    ) -> (Vec<T>, bool, bool) {
        let Ok((items, path)) = fields.list(key, self.findings) else {
            self.flawed = true;
            return (Vec::new(), false, true);
        };
        self.values += items.len();
        let mut values = Vec::with_capacity(items.len().min(MOST_VALUES));
        for (index, item) in items.iter().enumerate().take(MOST_VALUES) {
            let path = path.index(index);
            let Ok(text) = text(item, &path, self.findings) else { continue };
            match parse(text) {
                Parsed::Value(value) => values.push(value),
                Parsed::EqualToNothing(value, why) => {
                    values.push(value);
                    let text = format!("`{}` {why}", shown(text));
                    self.findings.push(Effect::NeverMatches, Code::NothingIsEqual, path, text);
                }
                Parsed::Invalid(code, why) => {
                    let text = format!("`{}` {why}", shown(text));
                    self.findings.push(Effect::Refused, code, path, text);
                }
            }
        }
        let readable = values.len() == items.len();
        self.flawed |= !readable;
        (values, readable, !items.is_empty())
    }

    /// What is left of a match without its fields of layer 7; none when it matches nothing.
    fn settle(&mut self, draft: Draft, http: &[&str], path: Path) -> Option<Match> {
        if !http.is_empty() {
            let names: Vec<_> = http.iter().map(|name| format!("`{name}`")).collect();
            let names = names.join(", ");
            let (effect, code, what) = match (self.action, draft.asked) {
                (Action::Allow, _) => (
                    Effect::Stricter,
                    Code::HttpRuleLeftOut,
                    "so the whole rule is left out and allows nothing",
                ),
                (Action::Deny, true) => (
                    Effect::Stricter,
                    Code::HttpFieldsIgnored,
                    "so it denies by the other fields alone, which is more than it says",
                ),
                (Action::Deny, false) => (
                    Effect::NeverMatches,
                    Code::HttpNeverDenies,
                    "and nothing else is asked for, so NOTHING is denied by it",
                ),
            };
            let text = format!("{names}: not known on layer 4, {what}");
            self.findings.push(effect, code, path, text);
            self.flawed |= self.action == Action::Allow;
        } else if !draft.asked {
            let text = "it asks for nothing, and so matches nothing".to_owned();
            self.findings.push(Effect::NeverMatches, Code::EmptyMatch, path, text);
        }
        draft.asked.then_some(draft.matching)
    }
}

/// Whether the field asks for anything.
fn is_there(fields: &Fields<'_>, key: &str) -> bool {
    fields.get(key).is_some_and(|(value, _)| value.as_array().is_none_or(|list| !list.is_empty()))
}
