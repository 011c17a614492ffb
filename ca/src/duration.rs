//! Lengths of time as a person writes them: `90s`, `10m`, `24h`, `30d`.

use std::time::Duration;

/// Why a text is not a length of time.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not a length of time; write a whole number and s, m, h or d, such as 24h")]
pub struct DurationError {
    found: String,
}

/// Reads a length of time of at least one second.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let wrong = || DurationError { found: text.to_owned() };
    let (number, unit) =
        text.char_indices().next_back().map(|(at, unit)| (&text[..at], unit)).ok_or_else(wrong)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86400,
        _ => return Err(wrong()),
    };
    // `u64::from_str` would take a plus sign.
    if !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u64 = number.parse().map_err(|_| wrong())?;
    match number.checked_mul(seconds) {
        Some(1..) => Ok(Duration::from_secs(number * seconds)),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_nonsense_is_refused() {
        assert_eq!(parse("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("10m"), Ok(Duration::from_mins(10)));
        assert_eq!(parse("24h"), Ok(Duration::from_hours(24)));
        assert_eq!(parse("30d"), Ok(Duration::from_hours(720)));
        for text in ["", "s", "0s", "-1s", "+1s", "1", "1.5h", "1w", "99999999999999999999d", "1ä"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
