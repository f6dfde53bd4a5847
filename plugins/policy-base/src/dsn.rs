//! The connection URI (DSN) that callers are given: libpq's form, percent-encoded as RFC 3986 has it.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::bindings::exports::dev_postgres::plugin::rules::Endpoint;

/// All but RFC 3986's unreserved characters: drivers differ in what else they forgive.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The same less the colon, which IPv6 addresses are made of.
const RESERVED_IN_HOST: &AsciiSet = &RESERVED.remove(b':');

/// `postgresql://username:password@host:port/database`.
#[must_use]
pub fn format(endpoint: &Endpoint) -> String {
    let host = utf8_percent_encode(&endpoint.host, RESERVED_IN_HOST).to_string();
    let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
    format!(
        "postgresql://{username}:{password}@{open}{host}{close}:{port}/{database}",
        username = utf8_percent_encode(&endpoint.username, RESERVED),
        password = utf8_percent_encode(&endpoint.password, RESERVED),
        port = endpoint.port,
        database = utf8_percent_encode(&endpoint.database, RESERVED),
    )
}

#[cfg(test)]
mod tests {
    use percent_encoding::percent_decode_str;

    use super::*;

    fn endpoint(host: &str, username: &str, password: &str, database: &str) -> Endpoint {
        Endpoint {
            host: host.into(),
            port: 15432,
            database: database.into(),
            username: username.into(),
            password: password.into(),
        }
    }

    /// Username, password, host and port, database, taken apart at the delimiters that RFC 3986 leaves.
    fn take_apart(dsn: &str) -> [String; 4] {
        let rest = dsn.strip_prefix("postgresql://").expect("the scheme");
        let (user, rest) = rest.split_once('@').expect("credentials");
        let (username, password) = user.split_once(':').expect("a password");
        let (authority, database) = rest.split_once('/').expect("a database");
        [username, password, authority, database].map(|part| {
            percent_decode_str(part)
                .decode_utf8()
                .expect("what was encoded was UTF-8")
                .into_owned()
        })
    }

    #[test]
    fn plain_values_stay_as_they_are() {
        assert_eq!(
            format(&endpoint("127.0.0.1", "postgres", "mzxw6ytb-._~", "app")),
            "postgresql://postgres:mzxw6ytb-._~@127.0.0.1:15432/app"
        );
    }

    #[test]
    fn everything_but_unreserved_characters_is_percent_encoded() {
        assert_eq!(
            format(&endpoint(
                "db.example",
                "us er%/@",
                "p@ss:/w?rd#1 %41'\"\\",
                "my-db \"x\" 'ü'"
            )),
            "postgresql://us%20er%25%2F%40:p%40ss%3A%2Fw%3Frd%231%20%2541%27%22%5C@db.example:15432/\
             my-db%20%22x%22%20%27%C3%BC%27"
        );
    }

    #[test]
    fn an_ipv6_address_stands_in_brackets() {
        let dsn_of = |host| format(&endpoint(host, "u", "p", "d"));
        assert_eq!(dsn_of("::1"), "postgresql://u:p@[::1]:15432/d");
        assert_eq!(
            dsn_of("fe80::1%eth0"),
            "postgresql://u:p@[fe80::1%25eth0]:15432/d",
            "RFC 6874"
        );
    }

    #[test]
    fn any_text_survives_the_way_there_and_back() {
        let mut texts: Vec<String> = ('\u{1}'..'\u{300}').map(String::from).collect();
        texts.extend(
            [
                "%41",
                "%",
                "%%",
                "%zz",
                "a+b",
                "\r\n",
                "=&?#",
                "../..",
                "🐘",
                "e\u{301}",
                "\u{10ffff}",
                "日本語 's",
            ]
            .map(String::from),
        );
        for text in texts {
            for text in [text.clone(), format!("{text}{text}"), format!("a{text}z")] {
                let dsn = format(&endpoint("h", &text, &text, &text));
                assert!(dsn.bytes().all(|byte| byte.is_ascii_graphic()), "{dsn:?}");
                assert_eq!(
                    take_apart(&dsn),
                    [&text, &text, "h:15432", &text].map(str::to_owned),
                    "{dsn}"
                );
            }
        }
    }
}
