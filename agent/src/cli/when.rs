//! Moments as people read them.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// How far a moment is: `in 15 h`, `3 min ago`; the text itself where it is no moment.
pub fn relative(at: &str, now: OffsetDateTime) -> String {
    let Ok(moment) = OffsetDateTime::parse(at, &Rfc3339) else { return at.to_owned() };
    let ahead = (moment - now).whole_seconds();
    let length = length(ahead.unsigned_abs());
    if ahead < 0 { format!("{length} ago") } else { format!("in {length}") }
}

/// How long it is since a moment: `3 min`; the text itself where it is no moment.
pub fn age(at: &str, now: OffsetDateTime) -> String {
    let Ok(moment) = OffsetDateTime::parse(at, &Rfc3339) else { return at.to_owned() };
    length((now - moment).whole_seconds().max(0).unsigned_abs())
}

fn length(seconds: u64) -> String {
    match seconds {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds @ 7200..=172_799 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-24 10:00 UTC);

    #[test]
    fn what_is_over_is_said_to_be() {
        assert_eq!(relative("2026-11-24T09:57:00Z", NOW), "3 min ago");
        assert_eq!(relative("2026-11-24T10:00:00Z", NOW), "in 0 s");
        assert_eq!(relative("2026-12-24T10:00:00Z", NOW), "in 30 d");
        assert_eq!(relative("sometime", NOW), "sometime");
        assert_eq!(age("2026-11-24T07:00:00Z", NOW), "3 h");
        assert_eq!(age("2026-11-24T10:00:03Z", NOW), "0 s", "of a clock that is ahead");
    }
}
