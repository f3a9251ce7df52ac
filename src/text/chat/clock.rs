//! Dates and times as templates ask for them: Python's `strftime`, in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// The conversions of C's `strftime` in its own locale, but for week numbers; `%-d` without padding. An
/// unknown one stays as it stands.
pub fn strftime(format: &str, unix: u64) -> String {
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut conversion = chars.next();
        let plain = conversion == Some('-');
        if plain {
            conversion = chars.next();
        }
        let sign = if plain { "%-" } else { "%" };
        match conversion.and_then(|conversion| convert(conversion, unix)) {
            Some(text) if plain => {
                let number = text.trim_start_matches(['0', ' ']);
                out += if number.is_empty() { "0" } else { number };
            }
            Some(text) => out += &text,
            None => {
                out += sign;
                out.extend(conversion);
            }
        }
    }
    out
}

fn convert(conversion: char, unix: u64) -> Option<String> {
    let (days, second) = (unix / 86400, unix % 86400);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let (year, month, day) = civil(days);
    let (week_day, month_name) = (DAYS[(days % 7) as usize], MONTHS[(month as usize + 11) % 12]);
    let short = |name: &str| name.chars().take(3).collect::<String>();
    let parts = |format: &str| Some(strftime(format, unix));
    Some(match conversion {
        'Y' => year.to_string(),
        'C' => format!("{:02}", year / 100),
        'y' => format!("{:02}", year % 100),
        'm' => format!("{month:02}"),
        'd' => format!("{day:02}"),
        'e' => format!("{day:2}"),
        'j' => format!("{:03}", days + 1 - first_day(year)),
        'B' => month_name.to_string(),
        'b' | 'h' => short(month_name),
        'A' => week_day.to_string(),
        'a' => short(week_day),
        'u' => ((days + 3) % 7 + 1).to_string(),
        'w' => ((days + 4) % 7).to_string(),
        'H' => format!("{hour:02}"),
        'k' => format!("{hour:2}"),
        'I' => format!("{:02}", (hour + 11) % 12 + 1),
        'l' => format!("{:2}", (hour + 11) % 12 + 1),
        'M' => format!("{minute:02}"),
        'S' => format!("{second:02}"),
        'f' => "000000".to_string(),
        'p' => (if hour < 12 { "AM" } else { "PM" }).to_string(),
        's' => unix.to_string(),
        // A time without a zone has no name of one.
        'Z' | 'z' => String::new(),
        'n' => "\n".to_string(),
        't' => "\t".to_string(),
        '%' => "%".to_string(),
        'F' => return parts("%Y-%m-%d"),
        'T' | 'X' => return parts("%H:%M:%S"),
        'R' => return parts("%H:%M"),
        'r' => return parts("%I:%M:%S %p"),
        'D' | 'x' => return parts("%m/%d/%y"),
        'c' => return parts("%a %b %e %H:%M:%S %Y"),
        _ => return None,
    })
}

/// The day number of a year's first day, from 1970 on.
fn first_day(year: u64) -> u64 {
    let before = year.saturating_sub(1);
    let leaps = |year: u64| year / 4 - year / 100 + year / 400;
    year.saturating_sub(1970) * 365 + leaps(before) - leaps(1969)
}

/// Year, month and day of a day number since 1970, by counting 400-year cycles of 146097 days from a
/// 1 March, so that the leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01 to 1970-01-01
    let (cycle, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153; // 0 is March
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (cycle * 400 + year + u64::from(month <= 2), month, of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From Python 3.11 and glibc: `datetime.fromtimestamp(unix, timezone.utc).replace(tzinfo=None).strftime(...)`.
    #[test]
    fn dates() {
        for (unix, expected) in [
            (0, "Thursday 01 January 1970 12:00:00 AM Jan 70 001"),
            (951_782_400, "Tuesday 29 February 2000 12:00:00 AM Feb 00 060"),
            (4_107_542_399, "Sunday 28 February 2100 11:59:59 PM Feb 00 059"),
            (1_735_689_599, "Tuesday 31 December 2024 11:59:59 PM Dec 24 366"),
        ] {
            assert_eq!(strftime("%A %d %B %Y %I:%M:%S %p %b %y %j", unix), expected);
        }
        let expected = "1 2|20|Mon Jan  1 02:03:04 2001|01/01/01 02:03:04|02:03|1 1| 1| 2||978314584|1|1";
        assert_eq!(strftime("%-d %-I|%C|%c|%x %X|%R|%u %w|%e|%k|%Z|%s|%-j|%-m", 978_314_584), expected);
        assert_eq!(strftime("%q 100%% %-q %- %", 0), "%q 100% %-q %- %");
    }
}
