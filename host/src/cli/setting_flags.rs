//! One command-line option per setting, made from `default.toml`: its name and its help are written there once.

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use serde_json::Value;

use crate::config::{KEYS, Key};

/// The settings that were given on the command line, as they were typed.
#[derive(Debug, Clone, Default)]
pub(super) struct SettingFlags(pub Vec<(&'static Key, String)>);

impl Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        KEYS.iter().fold(command, |command, key| {
            let default = match &key.default {
                Value::String(text) if !text.is_empty() => format!(" [default: {text}]"),
                value @ (Value::Number(_) | Value::Bool(_)) => format!(" [default: {value}]"),
                // The meaning says what empty stands for.
                _ => String::new(),
            };
            let help = format!("{}{default} [env: {}]", key.meaning, key.variable);
            let arg = Arg::new(key.flag.as_str())
                .long(key.flag.as_str())
                .help(help)
                .value_name("VALUE")
                .global(true);
            command.arg(arg.help_heading("Settings").hide_short_help(true))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |key: &'static Key| Some((key, matches.get_one::<String>(&key.flag)?.clone()));
        Ok(Self(KEYS.iter().filter_map(given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
