//! What the configuration may say: which SQL seeds an instance, and how to see that it did.

use serde::Deserialize;

/// The settings, all of which may be left out.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// Any number of statements.
    pub(crate) script: String,
    /// A table that has rows when the script has been run.
    pub(crate) table: String,
    /// How many.
    pub(crate) rows: i64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            script: include_str!("seed.sql").into(),
            table: "customer".into(),
            rows: 3,
        }
    }
}

impl Settings {
    /// # Errors
    /// What is wrong: the field, and a fragment that reads well after it.
    pub(crate) fn parse(json: &str) -> Result<Self, (&'static str, String)> {
        let settings: Self =
            serde_json::from_str(json).map_err(|error| ("settings", format!("do not fit: {error}")))?;
        if settings.table.is_empty() {
            return Err(("table", "must not be empty".into()));
        }
        if settings.rows < 0 {
            return Err(("rows", "must be at least 0".into()));
        }
        Ok(settings)
    }

    /// The statement that counts the rows. A name can't be a parameter: it is quoted as PostgreSQL wants it.
    pub(crate) fn count(&self) -> String {
        format!("SELECT count(*) FROM \"{}\"", self.table.replace('"', "\"\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_the_example() {
        assert_eq!(Settings::parse("{}"), Ok(Settings::default()));
        let settings = Settings::parse(r#"{ "table": "a\"b", "rows": 0 }"#).expect("they fit");
        assert_eq!(settings.count(), r#"SELECT count(*) FROM "a""b""#);
    }

    #[test]
    fn what_makes_no_sense_is_told_by_field() {
        for (json, field) in [
            (r#"{ "rows": -1 }"#, "rows"),
            (r#"{ "table": "" }"#, "table"),
            (r#"{ "rows": "3" }"#, "settings"),
            (r#"{ "row": 3 }"#, "settings"),
        ] {
            let (told, _) = Settings::parse(json).expect_err(json);
            assert_eq!(told, field, "{json}");
        }
    }
}
