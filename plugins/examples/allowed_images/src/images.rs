//! Which images may be built, and of which version.

use policy_base::settings::Given;

/// The highest major version that can be meant.
const MAJOR_MAX: u64 = 99;

/// What may be built. A list that is left out allows everything.
#[derive(Debug, PartialEq, Eq)]
pub struct Images {
    repositories: Option<Vec<Pattern>>,
    versions: Option<Versions>,
}

#[derive(Debug, PartialEq, Eq)]
struct Versions {
    majors: Vec<u64>,
    tags: Vec<Pattern>,
}

/// A text, or with `*` at its end all that begin so.
#[derive(Debug, PartialEq, Eq)]
enum Pattern {
    Exact(String),
    Prefix(String),
}

impl Pattern {
    fn of(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Self::Prefix(prefix.to_owned()),
            None => Self::Exact(text.to_owned()),
        }
    }

    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => text == exact,
            Self::Prefix(prefix) => text.starts_with(prefix),
        }
    }

    fn to_text(&self) -> String {
        match self {
            Self::Exact(exact) => exact.clone(),
            Self::Prefix(prefix) => format!("{prefix}*"),
        }
    }
}

impl Images {
    /// Takes the keys `repositories`, `majors` and `versions`.
    pub(crate) fn take(given: &mut Given) -> Self {
        let repositories = given.take_texts("repositories").map(|texts| {
            if texts.is_empty() {
                given.refuse("repositories", "must not be empty: nothing could be created");
            }
            let check = |(index, text): (usize, &String)| {
                // What merely begins alike may be anybody's: ghcr.io/acme-evil.
                let wrong = text.is_empty() || text.trim_end_matches("/*").contains('*');
                if wrong {
                    let must = "must be a repository, or end in /* for all below";
                    given.refuse(format!("repositories[{index}]"), must);
                }
                Pattern::of(familiar(text))
            };
            texts.iter().enumerate().map(check).collect()
        });
        let must = format!("must be a list of major versions from 10 to {MAJOR_MAX}");
        let majors: Option<Vec<u64>> = given.take("majors", &must, |value| {
            let majors = value.as_array()?.iter();
            let major = |value: &serde_json::Value| value.as_u64().filter(|major| (10..=MAJOR_MAX).contains(major));
            majors.map(major).collect()
        });
        let tags = given.take_texts("versions").map(|texts| {
            let check = |(index, text): (usize, &String)| {
                if text.is_empty() || text.trim_end_matches('*').len() + 1 < text.len() || text == "*" {
                    let must = "must be a version, or end in * for all that begin so";
                    given.refuse(format!("versions[{index}]"), must);
                }
                Pattern::of(text)
            };
            texts.iter().enumerate().map(check).collect()
        });
        let versions = (majors.is_some() || tags.is_some()).then(|| Versions {
            majors: majors.unwrap_or_default(),
            tags: tags.unwrap_or_default(),
        });
        if versions
            .as_ref()
            .is_some_and(|versions| versions.majors.is_empty() && versions.tags.is_empty())
        {
            given.refuse(
                "versions",
                "must name a version, or majors one: nothing could be created",
            );
        }
        Self { repositories, versions }
    }

    /// May this image be built?
    ///
    /// # Errors
    /// If not: what is allowed, and what to do.
    pub(crate) fn check(&self, repository: &str, version: &str) -> Result<(), String> {
        if let Some(allowed) = &self.repositories
            && !allowed.iter().any(|pattern| pattern.matches(familiar(repository)))
        {
            return Err(format!(
                "the image repository {repository} is not allowed, only {}: whoever keeps this host's configuration sets \
                 another one there",
                list(allowed.iter().map(Pattern::to_text)),
            ));
        }
        if let Some(allowed) = &self.versions
            && !allowed.allow(version)
        {
            let majors = allowed.majors.iter().map(|major| format!("{major} or {major}.x"));
            return Err(format!(
                "PostgreSQL {version} is not allowed: ask for {}",
                list(majors.chain(allowed.tags.iter().map(Pattern::to_text))),
            ));
        }
        Ok(())
    }
}

impl Versions {
    fn allow(&self, version: &str) -> bool {
        let of_major = |major: &u64| {
            version
                .strip_prefix(&major.to_string())
                .is_some_and(|rest| rest.is_empty() || is_minor(rest))
        };
        self.majors.iter().any(of_major) || self.tags.iter().any(|pattern| pattern.matches(version))
    }
}

/// `.5`, and no `-alpine`: that is another image.
fn is_minor(text: &str) -> bool {
    text.strip_prefix('.')
        .is_some_and(|minor| !minor.is_empty() && minor.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A repository as Docker shows it: its Hub and the Hub's own images have shorter names.
fn familiar(repository: &str) -> &str {
    let of_hub = ["docker.io/", "index.docker.io/"]
        .iter()
        .find_map(|hub| repository.strip_prefix(hub))
        .unwrap_or(repository);
    of_hub.strip_prefix("library/").unwrap_or(of_hub)
}

fn list(allowed: impl Iterator<Item = String>) -> String {
    allowed.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(settings: &str) -> Result<Images, Vec<String>> {
        let mut given = Given::parse(settings);
        let images = Images::take(&mut given);
        given
            .finish(images)
            .map_err(|problems| problems.into_iter().map(|problem| problem.field).collect())
    }

    #[test]
    fn a_list_that_is_left_out_allows_everything() {
        let images = images("{}").expect("they fit");
        assert_eq!(images.check("ghcr.io/anybody/postgres", "9.6-alpine"), Ok(()));
    }

    #[test]
    fn a_major_version_is_itself_and_its_minor_ones_and_no_other_image() {
        let images = images(r#"{ "majors": [17], "versions": ["16.4", "15-acme.*"] }"#).expect("they fit");
        for version in ["17", "17.0", "17.10", "16.4", "15-acme.1"] {
            assert_eq!(images.check("postgres", version), Ok(()));
        }
        for version in ["1", "170", "17.", "17.x", "17-alpine", "16", "16.40", "15", "15-acme"] {
            images.check("postgres", version).expect_err(version);
        }
        assert_eq!(
            images.check("postgres", "15.3"),
            Err("PostgreSQL 15.3 is not allowed: ask for 17 or 17.x, 16.4, 15-acme.*".into())
        );
    }

    #[test]
    fn repositories_are_exact_or_all_below_a_path_and_the_hubs_have_several_names() {
        let images =
            images(r#"{ "repositories": ["docker.io/library/postgres", "ghcr.io/acme/*"] }"#).expect("they fit");
        for repository in [
            "postgres",
            "library/postgres",
            "index.docker.io/library/postgres",
            "ghcr.io/acme/db/postgres",
        ] {
            assert_eq!(images.check(repository, "17"), Ok(()));
        }
        for repository in [
            "postgres2",
            "evil/postgres",
            "ghcr.io/acme",
            "ghcr.io/acme-evil/postgres",
            "evil.io/ghcr.io/acme/x",
        ] {
            images.check(repository, "17").expect_err(repository);
        }
        let reason = images.check("evil/postgres", "17").expect_err("it isn't there");
        assert!(
            reason.starts_with("the image repository evil/postgres is not allowed, only postgres, ghcr.io/acme/*: "),
            "{reason}"
        );
    }

    #[test]
    fn every_wrong_setting_is_named() {
        assert_eq!(
            images(
                r#"{ "repositories": ["postgres", "ghcr.io/acme*", "*"], "majors": [17, 9], "versions": ["*", "1**", ""],
                     "tags": [] }"#
            ),
            Err([
                "repositories[1]",
                "repositories[2]",
                "majors",
                "versions[0]",
                "versions[1]",
                "versions[2]",
                "tags"
            ]
            .map(str::to_owned)
            .to_vec())
        );
        assert_eq!(
            images(r#"{ "repositories": [], "versions": [] }"#),
            Err(vec!["repositories".into(), "versions".into()])
        );
    }
}
