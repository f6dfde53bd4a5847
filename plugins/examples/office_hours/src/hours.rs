//! Which hours of the week are open, at a fixed offset from UTC: there is no daylight saving time here.

use policy_base::settings::Given;
use serde_json::Value;

const MINUTE_MILLIS: u64 = 60_000;
const DAY: i64 = 24 * 60;
const WEEK: i64 = 7 * DAY;
/// 1970-01-01 was a Thursday; weeks begin on Monday.
const EPOCH: i64 = 3 * DAY;

const DAYS: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];

/// When creates are allowed. Times are in minutes.
#[derive(Debug, PartialEq, Eq)]
pub struct Hours {
    /// Of the week, counted from Monday, 0.
    days: Vec<i64>,
    /// Of the day.
    from: i64,
    /// Of the same day, or of the next one if it is earlier.
    until: i64,
    /// What the clock shows beyond UTC.
    utc_offset: i64,
}

impl Hours {
    /// Takes the keys `days`, `from`, `until` and `utc_offset`.
    pub(crate) fn take(given: &mut Given) -> Self {
        let must = format!("must be a list of at least one day: {}", DAYS.join(", "));
        let days = given.take("days", &must, |value| {
            let days = value.as_array().filter(|days| !days.is_empty())?.iter();
            days.map(day).collect()
        });
        let from = given.take("from", "must be a time from \"00:00\" to \"23:59\"", |value| {
            time(value.as_str()?).filter(|from| *from < DAY)
        });
        let until = given.take("until", "must be a time from \"00:01\" to \"24:00\"", |value| {
            time(value.as_str()?).filter(|until| *until > 0)
        });
        let utc_offset = given.take(
            "utc_offset",
            "must be an offset such as \"+01:00\", at most 14 hours",
            |value| offset(value.as_str()?),
        );
        let hours = Self {
            days: days.unwrap_or_else(|| (0..5).collect()),
            from: from.unwrap_or(8 * 60),
            until: until.unwrap_or(18 * 60),
            utc_offset: utc_offset.unwrap_or(0),
        };
        if hours.from == hours.until {
            given.refuse("until", "must be another time than from");
        }
        hours
    }

    /// May an instance be created at this time, in milliseconds since 1970 in UTC?
    ///
    /// # Errors
    /// If not: when it may.
    pub(crate) fn check(&self, now: u64) -> Result<(), String> {
        let since_epoch = i64::try_from(now / MINUTE_MILLIS).map_err(|_| "the clock is wrong")?;
        let now = (since_epoch + EPOCH + self.utc_offset).rem_euclid(WEEK);
        let length = (self.until - self.from).rem_euclid(DAY);
        let length = if length == 0 { DAY } else { length };
        let opens = |day: &i64| day * DAY + self.from;
        if self.days.iter().any(|day| (now - opens(day)).rem_euclid(WEEK) < length) {
            return Ok(());
        }
        let next = self
            .days
            .iter()
            .map(opens)
            .min_by_key(|opens| (opens - now).rem_euclid(WEEK));
        Err(format!(
            "instances may be created {days}, {from} to {until} ({offset}), and it is {now}: come back {next}; what there is \
             can be used and dropped at any time",
            days = self.days_text(),
            from = time_text(self.from),
            until = time_text(self.until),
            offset = offset_text(self.utc_offset),
            now = moment(now),
            next = next.map(moment).unwrap_or_default(),
        ))
    }

    fn days_text(&self) -> String {
        let mut days = self.days.clone();
        days.sort_unstable();
        days.dedup();
        if days.len() == DAYS.len() {
            return "every day".into();
        }
        days.iter().map(|day| day_text(*day)).collect::<Vec<_>>().join(", ")
    }
}

/// A day by its English name or the first three letters of that.
fn day(value: &Value) -> Option<i64> {
    let text = value.as_str()?;
    (0..).zip(DAYS).find_map(|(index, name)| {
        let short = name.get(..3).unwrap_or(name);
        (text.eq_ignore_ascii_case(name) || text.eq_ignore_ascii_case(short)).then_some(index)
    })
}

/// `08:30`, to `24:00`.
fn time(text: &str) -> Option<i64> {
    let (hours, minutes) = text.split_once(':')?;
    let two_digits = |text: &str| {
        let is_number = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse::<i64>().ok()).flatten()
    };
    let (hours, minutes) = (two_digits(hours)?, two_digits(minutes)?);
    let time = hours * 60 + minutes;
    (minutes < 60 && time <= DAY).then_some(time)
}

/// `+01:00`, `-03:30`, `Z`.
fn offset(text: &str) -> Option<i64> {
    if text == "Z" {
        return Some(0);
    }
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    time(rest)
        .filter(|offset| *offset <= 14 * 60)
        .map(|offset| sign * offset)
}

fn time_text(minutes: i64) -> String {
    format!("{:02}:{:02}", minutes / 60, minutes % 60)
}

fn offset_text(minutes: i64) -> String {
    match minutes {
        0 => "UTC".into(),
        minutes => format!("UTC{}{}", if minutes < 0 { '-' } else { '+' }, time_text(minutes.abs())),
    }
}

fn day_text(day: i64) -> &'static str {
    usize::try_from(day)
        .ok()
        .and_then(|day| DAYS.get(day))
        .copied()
        .unwrap_or_default()
}

/// `Monday 08:00`.
fn moment(minute_of_week: i64) -> String {
    format!("{} {}", day_text(minute_of_week / DAY), time_text(minute_of_week % DAY))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wednesday, 2026-11-25T00:00:00Z.
    const WEDNESDAY: u64 = 1_795_564_800_000;
    const HOUR: u64 = 60 * MINUTE_MILLIS;

    fn hours(settings: &str) -> Result<Hours, Vec<String>> {
        let mut given = Given::parse(settings);
        let hours = Hours::take(&mut given);
        given
            .finish(hours)
            .map_err(|problems| problems.into_iter().map(|problem| problem.field).collect())
    }

    fn open(settings: &str, now: u64) -> bool {
        hours(settings).expect("they fit").check(now).is_ok()
    }

    #[test]
    fn it_is_open_from_the_first_minute_on_and_closed_with_the_last() {
        let eight = WEDNESDAY + 8 * HOUR;
        assert!(!open("{}", eight - 1));
        assert!(open("{}", eight));
        assert!(open("{}", WEDNESDAY + 18 * HOUR - 1));
        assert!(!open("{}", WEDNESDAY + 18 * HOUR));
    }

    #[test]
    fn a_denial_says_when_it_opens() {
        let hours =
            hours(r#"{ "days": ["Mon", "friday"], "from": "09:30", "until": "17:00", "utc_offset": "-03:30" }"#);
        assert_eq!(
            hours.expect("they fit").check(WEDNESDAY),
            Err(
                "instances may be created Monday, Friday, 09:30 to 17:00 (UTC-03:30), and it is Tuesday 20:30: come back \
                 Friday 09:30; what there is can be used and dropped at any time"
                    .into()
            )
        );
    }

    #[test]
    fn the_offset_moves_the_day_too() {
        let sunday = WEDNESDAY + 4 * 24 * HOUR;
        let monday_there = sunday + 18 * HOUR;
        assert!(open(r#"{ "utc_offset": "+14:00" }"#, monday_there));
        assert!(!open(r#"{ "utc_offset": "+13:00" }"#, monday_there));
        assert!(open(r#"{ "utc_offset": "-11:00" }"#, sunday - 24 * HOUR));
    }

    #[test]
    fn a_night_belongs_to_the_day_on_which_it_begins_even_from_one_week_to_the_next() {
        let night = r#"{ "days": ["sun"], "from": "22:00", "until": "06:00" }"#;
        let monday = WEDNESDAY - 2 * 24 * HOUR;
        for (at, is_open) in [
            (monday - 3 * HOUR, false),
            (monday - 2 * HOUR, true),
            (monday, true),
            (monday + 6 * HOUR - 1, true),
            (monday + 6 * HOUR, false),
            (monday + 23 * HOUR, false),
        ] {
            assert_eq!(open(night, at), is_open, "{at}");
        }
    }

    #[test]
    fn a_whole_day_is_from_its_first_minute_to_its_last() {
        let wednesdays = r#"{ "days": ["Wed"], "from": "00:00", "until": "24:00" }"#;
        for (at, is_open) in [
            (WEDNESDAY - 1, false),
            (WEDNESDAY, true),
            (WEDNESDAY + 24 * HOUR - 1, true),
            (WEDNESDAY + 24 * HOUR, false),
        ] {
            assert_eq!(open(wednesdays, at), is_open, "{at}");
        }
    }

    #[test]
    fn no_time_at_all_makes_it_fail() {
        for now in [0, 1, u64::MAX] {
            let _ = hours("{}").expect("they fit").check(now);
        }
    }

    #[test]
    fn every_wrong_setting_is_named() {
        assert_eq!(
            hours(r#"{ "days": ["Mon", "Tu"], "from": "24:00", "until": "8:00", "utc_offset": "CET", "to": "" }"#),
            Err(["days", "from", "until", "utc_offset", "to"]
                .map(str::to_owned)
                .to_vec())
        );
        for wrong in [
            r#"{ "days": [] }"#,
            r#"{ "from": "08:60" }"#,
            r#"{ "from": "+8:00" }"#,
            r#"{ "until": "24:01" }"#,
            r#"{ "from": "18:00" }"#,
            r#"{ "utc_offset": "+15:00" }"#,
            r#"{ "utc_offset": "" }"#,
        ] {
            assert_eq!(hours(wrong).expect_err(wrong).len(), 1, "{wrong}");
        }
    }
}
