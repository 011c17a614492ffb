//! YAML of any form that remembers where each part of it stands.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};
use serde_saphyr::{Location, Spanned};

use crate::workload::documents::Step;

/// A value, with the places of its parts.
#[derive(Debug)]
pub(super) enum Located {
    Scalar(Value),
    List(Vec<Spanned<Located>>),
    Mapping(Vec<(Spanned<String>, Spanned<Located>)>),
}

/// Where a field stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Its name, or the item that it is.
    pub(super) key: Location,
    /// Its value.
    pub(super) value: Location,
}

impl Located {
    /// The value alone.
    pub(super) fn to_value(&self) -> Value {
        match self {
            Self::Scalar(value) => value.clone(),
            Self::List(items) => items.iter().map(|item| item.value.to_value()).collect(),
            Self::Mapping(fields) => Value::Object(
                fields
                    .iter()
                    .map(|(key, value)| (key.value.clone(), value.value.to_value()))
                    .collect(),
            ),
        }
    }

    /// The place that the steps lead to, or of the last thing on the way that is there.
    pub(super) fn place(&self, steps: &[Step], here: Place) -> Place {
        let Some((step, rest)) = steps.split_first() else { return here };
        let (place, next) = match (self, step) {
            (Self::Mapping(fields), Step::Key(key)) => {
                let Some((key, value)) = fields.iter().find(|(name, _)| name.value == *key) else {
                    return here;
                };
                (Place { key: key.referenced, value: value.referenced }, value)
            }
            (Self::List(items), Step::Index(index)) => {
                let Some(item) = items.get(*index) else { return here };
                (Place { key: item.referenced, value: item.referenced }, item)
            }
            _ => return here,
        };
        next.value.place(rest, place)
    }
}

impl<'de> Deserialize<'de> for Located {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Located;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Located, E> {
        Ok(Located::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Located, E> {
        Ok(Located::Scalar(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Located, E> {
        Ok(Located::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Located, E> {
        Ok(Located::Scalar(Value::Number(value.into())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Located, E> {
        Ok(Located::Scalar(Value::Number(value.into())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Located, E> {
        Ok(Located::Scalar(Number::from_f64(value).map_or(Value::Null, Value::Number)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Located, E> {
        Ok(Located::Scalar(Value::String(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Located, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Located::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Located, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = access.next_entry()? {
            fields.push(field);
        }
        Ok(Located::Mapping(fields))
    }
}
