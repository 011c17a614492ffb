//! What of a document does not hold as it is written.

use std::fmt;

/// The most findings that are kept of one document; more are only counted.
const MOST: usize = 32;
/// The most of a document's own text that a finding repeats.
const MOST_SHOWN: usize = 64;

/// What a finding means for the traffic. Declared by how much it matters: the first first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    /// It is wrong; the stricter reading holds.
    Refused,
    /// It is right, and nothing here enforces it.
    NotEnforced,
    /// It matches nothing. For DENY that means: nothing is denied by it.
    NeverMatches,
    /// More is refused than it says.
    Stricter,
    /// It holds, and there is something to know about it.
    Noted,
}

impl Effect {
    /// The text of a metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::NotEnforced => "not_enforced",
            Self::NeverMatches => "never_matches",
            Self::Stricter => "stricter",
            Self::Noted => "noted",
        }
    }

    /// Every effect, in the order of their declaration.
    pub const ALL: [Self; 5] =
        [Self::Refused, Self::NotEnforced, Self::NeverMatches, Self::Stricter, Self::Noted];
}

/// What was found. Stable: programs may rely on [`Code::as_str`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// A field has a value of another type.
    Malformed,
    /// A field that Istio's API does not have.
    UnknownField,
    /// A word that is not among those allowed.
    UnknownValue,
    /// A port that is none.
    InvalidPort,
    /// An address or block that is none.
    InvalidAddress,
    /// A service account that is none.
    InvalidServiceAccount,
    /// A `when` without values.
    EmptyCondition,
    /// More values than one policy may have.
    TooLarge,
    /// `portLevelMtls` without a selector.
    PortsWithoutSelector,
    /// An ALLOW rule that asks for layer 7 is left out.
    HttpRuleLeftOut,
    /// What a DENY rule asks of layer 7 is ignored: it denies more.
    HttpFieldsIgnored,
    /// A DENY rule asks for nothing but layer 7: it denies nothing.
    HttpNeverDenies,
    /// `source: {}`, `operation: {}`: matches nothing.
    EmptyMatch,
    /// A value that nothing can be equal to.
    NothingIsEqual,
    /// An action that layer 4 does not have.
    UnsupportedAction,
    /// The policy is for a waypoint or gateway.
    TargetRefs,
    /// Annotation `istio.io/dry-run`.
    DryRun,
    /// Label `istio.io/rev` names another mesh revision.
    OtherRevision,
    /// A PeerAuthentication with a selector in the root namespace.
    SelectorInRootNamespace,
    /// DISABLE takes what PERMISSIVE takes.
    DisableIsPermissive,
}

impl Code {
    /// The reason of a status condition.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "Malformed",
            Self::UnknownField => "UnknownField",
            Self::UnknownValue => "UnknownValue",
            Self::InvalidPort => "InvalidPort",
            Self::InvalidAddress => "InvalidAddress",
            Self::InvalidServiceAccount => "InvalidServiceAccount",
            Self::EmptyCondition => "EmptyCondition",
            Self::TooLarge => "TooLarge",
            Self::PortsWithoutSelector => "PortsWithoutSelector",
            Self::HttpRuleLeftOut => "HttpRuleLeftOut",
            Self::HttpFieldsIgnored => "HttpFieldsIgnored",
            Self::HttpNeverDenies => "HttpNeverDenies",
            Self::EmptyMatch => "EmptyMatch",
            Self::NothingIsEqual => "NothingIsEqual",
            Self::UnsupportedAction => "UnsupportedAction",
            Self::TargetRefs => "TargetRefs",
            Self::DryRun => "DryRun",
            Self::OtherRevision => "OtherRevision",
            Self::SelectorInRootNamespace => "SelectorInRootNamespace",
            Self::DisableIsPermissive => "DisableIsPermissive",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing of a document that does not hold as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it means for the traffic.
    pub effect: Effect,
    /// What was found.
    pub code: Code,
    /// Where.
    pub path: Path,
    /// What is the matter, and what to write instead or what comes of it.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.path, self.text)
    }
}

/// Where something stands in a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(Vec<Step>);

/// One step into a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Into a mapping.
    Key(String),
    /// Into a list.
    Index(usize),
}

impl Path {
    /// The place of a field of the document itself.
    pub fn new(key: &str) -> Self {
        Self(vec![Step::Key(key.to_owned())])
    }

    /// The place of a field of what stands here.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        self.with(Step::Key(key.to_owned()))
    }

    /// The place of an item of the list that stands here.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    /// From the outside in.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    fn with(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if number == 0 => f.write_str(&shown(key))?,
                Step::Key(key) => write!(f, ".{}", shown(key))?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Everything of a document that does not hold as it is written, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    kept: Vec<Finding>,
    // How many more there were; none of them matters more than those kept.
    more: usize,
}

impl Findings {
    /// Adds one. When there are too many to keep, one that matters least gives way.
    pub fn push(&mut self, effect: Effect, code: Code, path: Path, text: String) {
        let finding = Finding { effect, code, path, text };
        if self.kept.len() < MOST {
            self.kept.push(finding);
            return;
        }
        self.more += 1;
        let least = self.kept.iter_mut().max_by_key(|kept| kept.effect);
        if let Some(least) = least.filter(|least| least.effect > effect) {
            *least = finding;
        }
    }

    /// Those that are kept.
    pub fn iter(&self) -> std::slice::Iter<'_, Finding> {
        self.kept.iter()
    }

    /// Whether all holds as it is written.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The first of those that matter most.
    pub fn worst(&self) -> Option<&Finding> {
        self.kept.iter().min_by_key(|finding| finding.effect)
    }

    /// How much the worst of them all matters.
    pub fn effect(&self) -> Option<Effect> {
        self.worst().map(|finding| finding.effect)
    }
}

impl<'a> IntoIterator for &'a Findings {
    type Item = &'a Finding;
    type IntoIter = std::slice::Iter<'a, Finding>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Findings {
    /// All of them in one line, those that matter most first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted: Vec<_> = self.kept.iter().collect();
        sorted.sort_by_key(|finding| finding.effect);
        for (number, finding) in sorted.iter().enumerate() {
            let between = if number == 0 { "" } else { "; " };
            write!(f, "{between}{finding}")?;
        }
        if self.more > 0 {
            write!(f, "; and {} more", self.more)?;
        }
        Ok(())
    }
}

/// A document's own text, safe to repeat: on one line, and not at any length.
pub(super) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(MOST_SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(MOST_SHOWN).is_some() {
        shown.push('…');
    }
    shown
}
