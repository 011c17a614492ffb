//! [`PodUid`]: what tells a pod from one that was made again under its name.

use std::fmt;
use std::str::FromStr;

/// A pod's UID as the kubelet writes it: a UUID, or 32 hexadecimal digits for a static pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodUid(Box<str>);

/// The text is no UID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no pod UID; it is a lower-case UUID, or 32 hexadecimal digits for a static pod")]
pub struct PodUidError;

impl FromStr for PodUid {
    type Err = PodUidError;

    fn from_str(text: &str) -> Result<Self, PodUidError> {
        let hexadecimal = |part: &str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let uuid = || text.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
        if (text.len() == 32 && hexadecimal(text)) || (uuid() && text.split('-').all(hexadecimal)) {
            return Ok(Self(text.into()));
        }
        Err(PodUidError)
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_uids_are_taken() {
        for good in ["0f7c2a5e-1b3d-4c6f-8a9b-0123456789ab", "0123456789abcdef0123456789abcdef"] {
            assert_eq!(good.parse::<PodUid>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "0f7c2a5e",
            "0F7C2A5E-1B3D-4C6F-8A9B-0123456789AB",
            "0f7c2a5e-1b3d-4c6f-8a9b-0123456789ag",
            "0f7c2a5e1b3d-4c6f-8a9b-0123456789ab-",
            "--------------------------------",
            "0123456789abcdef0123456789abcde/",
        ] {
            assert_eq!(bad.parse::<PodUid>(), Err(PodUidError), "{bad}");
        }
    }
}
