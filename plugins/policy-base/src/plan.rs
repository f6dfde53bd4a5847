//! What is built for a request: the caller's wish where there is one and it fits, the defaults elsewhere.

use crate::bindings::dev_postgres::plugin::types::{CreateRequest, FieldError, InstanceSpec};
use crate::bindings::exports::dev_postgres::plugin::rules::Defaults;
use crate::lifetime::{self, Lifetimes};

/// The database of whoever names none.
pub const DEFAULT_DATABASE: &str = "postgres";
const DEFAULT_USERNAME: &str = "postgres";

/// PostgreSQL's `NAMEDATALEN` less the closing NUL: it cuts longer names short without an error.
pub const NAME_BYTES_MAX: usize = 63;
/// Ample for any passphrase or token; PostgreSQL itself has no bound that a client would meet first.
const PASSWORD_BYTES_MAX: usize = 1024;

/// Checks what the caller asked for and fills in what was left open. `generate_password` is called only when needed.
///
/// The defaults are the operator's own words and go unchecked here; the host checks every plan once more.
///
/// # Errors
/// Every problem of the request. No message repeats a value: one of them is a password.
pub fn plan(
    request: CreateRequest,
    defaults: Defaults,
    lifetimes: &Lifetimes,
    generate_password: impl FnOnce() -> String,
) -> Result<InstanceSpec, Vec<FieldError>> {
    let mut problems = problems(&request);
    let ttl_seconds = lifetime::new(request.ttl_seconds, lifetimes).unwrap_or_else(|problem| {
        problems.push(problem);
        None
    });
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(InstanceSpec {
        repository: defaults.repository,
        version: request.version.unwrap_or(defaults.version),
        database: request.database.unwrap_or_else(|| DEFAULT_DATABASE.into()),
        username: request.username.unwrap_or_else(|| DEFAULT_USERNAME.into()),
        password: request.password.unwrap_or_else(generate_password),
        memory_mib: defaults.memory_mib,
        cpu_millis: defaults.cpu_millis,
        durable: defaults.durable,
        ttl_seconds,
    })
}

fn problems(request: &CreateRequest) -> Vec<FieldError> {
    let mut problems = Problems::default();
    if let Some(version) = &request.version {
        problems.refuse_if(
            !is_version(version),
            "version",
            "must be a PostgreSQL major version from 10 on, such as \"17\", or major.minor, such as \"17.5\"",
        );
    }
    if let Some(database) = &request.database {
        problems.check_name("database", database);
        problems.refuse_if(
            database == "template0",
            "database",
            "must not be template0, which PostgreSQL lets nobody connect to",
        );
    }
    if let Some(username) = &request.username {
        problems.check_name("username", username);
        // `initdb` refuses the prefix, and PostgreSQL's grammar refuses the two words even in quotes.
        problems.refuse_if(
            username.starts_with("pg_") || matches!(username.as_str(), "public" | "none"),
            "username",
            "must not start with pg_ or be public or none: PostgreSQL keeps these role names for itself",
        );
    }
    if let Some(password) = &request.password {
        problems.refuse_if(password.is_empty(), "password", "must not be empty");
        problems.refuse_if(
            password.len() > PASSWORD_BYTES_MAX,
            "password",
            format!("must have at most {PASSWORD_BYTES_MAX} bytes"),
        );
        problems.refuse_nul("password", password);
    }
    problems.0
}

/// A major version with SCRAM authentication, which came with PostgreSQL 10, or one of its minor versions. Nothing
/// else: a version becomes an image tag, and `latest` or `17-alpine` would be another image than the operator chose.
fn is_version(text: &str) -> bool {
    // As PostgreSQL writes it: no sign, no leading zero.
    let is_number = |text: &str| {
        matches!(text.len(), 1 | 2)
            && text.bytes().all(|byte| byte.is_ascii_digit())
            && (text == "0" || !text.starts_with('0'))
    };
    let (major, minor) = text
        .split_once('.')
        .map_or((text, None), |(major, minor)| (major, Some(minor)));
    is_number(major) && major.len() == 2 && minor.is_none_or(is_number)
}

/// What has been found wrong so far.
#[derive(Default)]
struct Problems(Vec<FieldError>);

impl Problems {
    /// `message` has to read well after the field's name.
    fn refuse_if(&mut self, wrong: bool, field: &str, message: impl Into<String>) {
        if wrong {
            self.0.push(FieldError {
                field: field.into(),
                message: message.into(),
            });
        }
    }

    fn refuse_nul(&mut self, field: &str, text: &str) {
        self.refuse_if(
            text.contains('\0'),
            field,
            "must not contain NUL, which PostgreSQL can't take",
        );
    }

    /// Of a database or role PostgreSQL asks no more than this: quotes, spaces and any script are fine.
    fn check_name(&mut self, field: &str, name: &str) {
        self.refuse_if(name.is_empty(), field, "must not be empty");
        self.refuse_if(
            name.len() > NAME_BYTES_MAX,
            field,
            format!("must have at most {NAME_BYTES_MAX} bytes, has {}", name.len()),
        );
        self.refuse_nul(field, name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: CreateRequest = CreateRequest {
        version: None,
        database: None,
        username: None,
        password: None,
        ttl_seconds: None,
    };

    fn defaults() -> Defaults {
        Defaults {
            repository: "ghcr.io/acme/postgres".into(),
            version: "18".into(),
            memory_mib: 512,
            cpu_millis: 1000,
            durable: true,
        }
    }

    fn plan_of(request: CreateRequest) -> Result<InstanceSpec, Vec<FieldError>> {
        plan(request, defaults(), &Lifetimes::default(), || "generated".into())
    }

    /// A request with one field set.
    fn with(field: &str, value: &str) -> CreateRequest {
        let value = Some(value.to_owned());
        match field {
            "version" => CreateRequest {
                version: value,
                ..NOTHING
            },
            "database" => CreateRequest {
                database: value,
                ..NOTHING
            },
            "username" => CreateRequest {
                username: value,
                ..NOTHING
            },
            "password" => CreateRequest {
                password: value,
                ..NOTHING
            },
            _ => panic!("{field} is no field"),
        }
    }

    fn assert_allowed(field: &str, value: &str) {
        let spec = plan_of(with(field, value)).unwrap_or_else(|problems| panic!("{value:?} refused: {problems:?}"));
        let planned = match field {
            "version" => spec.version,
            "database" => spec.database,
            "username" => spec.username,
            _ => spec.password,
        };
        assert_eq!(planned, value, "{field} reaches the plan unchanged");
    }

    /// The messages of a request that is refused for `field` alone.
    fn refusals(field: &str, value: &str) -> Vec<String> {
        match plan_of(with(field, value)) {
            Ok(_) => panic!("{field} {value:?} was allowed"),
            Err(problems) => {
                assert!(problems.iter().all(|problem| problem.field == field), "{problems:?}");
                problems.into_iter().map(|problem| problem.message).collect()
            }
        }
    }

    #[test]
    fn what_is_left_open_comes_from_the_defaults() {
        let spec = plan_of(NOTHING).expect("nothing is wrong with nothing");
        assert_eq!(
            (spec.repository.as_str(), spec.version.as_str()),
            ("ghcr.io/acme/postgres", "18")
        );
        assert_eq!(
            (spec.database.as_str(), spec.username.as_str()),
            ("postgres", "postgres")
        );
        assert_eq!(spec.password, "generated");
        assert_eq!((spec.memory_mib, spec.cpu_millis, spec.durable), (512, 1000, true));
    }

    #[test]
    fn no_password_is_generated_where_one_is_given() {
        let spec = plan(with("password", "mine"), defaults(), &Lifetimes::default(), || {
            panic!("was asked for a password")
        });
        assert_eq!(spec.expect("it fits").password, "mine");
    }

    #[test]
    fn a_version_is_a_major_or_a_minor_from_10_on() {
        for version in ["10", "12", "17", "99", "10.0", "16.4", "17.10"] {
            assert_allowed("version", version);
        }
        for version in [
            "",
            " ",
            ".",
            "9",
            "9.6",
            "9.6.24",
            "017",
            "100",
            "17.",
            ".17",
            "17.05",
            "17.100",
            "17.1.2",
            "17-alpine",
            "17alpha",
            "17beta1",
            "latest",
            " 17",
            "17 ",
            "17\n",
            "+17",
            "-17",
            "1e1",
            "0x11",
            "１７",
            "17,5",
            "17/5",
            "17:5",
            "17@sha256",
            "17\0",
            "00",
        ] {
            assert_eq!(refusals("version", version).len(), 1, "{version:?}");
        }
    }

    #[test]
    fn names_are_whatever_postgresql_takes() {
        let longest = "é".repeat(31) + "x";
        for name in [
            "a",
            "A b",
            "my-db \"x\" 'y'",
            "us er%/@",
            "@:/?#%",
            "日本語",
            "$1; drop",
            "--",
            "=",
            "-c",
            "\u{1}\n\t\\",
            "template1",
            "Public",
            "PG_x",
            "pg",
            "nones",
            " ",
            longest.as_str(),
        ] {
            assert_allowed("database", name);
            assert_allowed("username", name);
        }
        for name in ["pg_", "pg_x", "public", "none"] {
            assert_allowed("database", name);
        }
        assert_allowed("username", "template0");
    }

    #[test]
    fn names_postgresql_cannot_take_are_refused() {
        for field in ["database", "username"] {
            assert_eq!(refusals(field, ""), ["must not be empty"]);
            assert_eq!(refusals(field, &"é".repeat(32)), ["must have at most 63 bytes, has 64"]);
            assert_eq!(
                refusals(field, "a\0b"),
                ["must not contain NUL, which PostgreSQL can't take"]
            );
            assert_eq!(refusals(field, &"\0".repeat(64)).len(), 2, "both problems are told");
        }
        assert_eq!(refusals("database", "template0").len(), 1);
        for name in ["pg_", "pg_x", "pg_\n", "public", "none"] {
            assert_eq!(refusals("username", name).len(), 1, "{name:?}");
        }
    }

    #[test]
    fn a_password_is_any_text_of_1_to_1024_bytes_without_nul() {
        for password in ["x", " ", "p@ss:/w?rd#1 %41'\"\\", "пароль\n", &"x".repeat(1024)] {
            assert_allowed("password", password);
        }
        assert_eq!(refusals("password", ""), ["must not be empty"]);
        assert_eq!(refusals("password", &"é".repeat(513)), ["must have at most 1024 bytes"]);
        assert_eq!(refusals("password", "\0").len(), 1);
    }

    #[test]
    fn all_problems_are_told_at_once_and_no_value_is_repeated() {
        let secret = "hunter2\0";
        let problems = plan_of(CreateRequest {
            version: Some("latest".into()),
            database: Some(String::new()),
            username: Some("pg_me".into()),
            password: Some(secret.into()),
            ttl_seconds: Some(0),
        })
        .expect_err("everything is wrong");
        let fields: Vec<&str> = problems.iter().map(|problem| problem.field.as_str()).collect();
        assert_eq!(fields, ["version", "database", "username", "password", "ttl_seconds"]);
        for problem in &problems {
            assert!(!problem.message.contains("hunter2"), "{}", problem.message);
        }
    }
}
