//! What makes a password strong enough, and one that is.

use policy_base::FieldError;
use policy_base::settings::Given;

/// Words that are in lists of common passwords, one a line.
const WORDS: &str = include_str!("words.txt");

/// How many characters a password needs where the settings don't say.
const LENGTH_MIN: u64 = 12;
/// More is no password that a person would type.
const LENGTH_LIMIT: u64 = 128;
/// How many kinds of characters it needs where the settings don't say.
const CLASSES_MIN: u64 = 3;
const CLASSES: u64 = 4;
/// A shorter word would be in most passwords.
const WORD_CHARS: std::ops::RangeInclusive<usize> = 3..=64;

/// All of these stand in a URI as they are.
const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~";
/// The least length of generated passwords: 169 bits.
const GENERATED_LENGTH: usize = 28;
/// How many passwords are thrown away at most that chance made too weak. Of 28 characters one in seven lacks the fourth
/// kind.
const ATTEMPTS: usize = 100;
/// How much randomness is taken at a time, in bytes.
const RANDOM_BYTES: u32 = 64;

/// How strong passwords have to be.
#[derive(Debug, PartialEq, Eq)]
pub struct Strength {
    length_min: usize,
    classes_min: usize,
    /// As [`folded`] writes them.
    words: Vec<String>,
}

impl Strength {
    /// Takes the keys `length_min`, `classes_min` and `words`.
    pub(crate) fn take(given: &mut Given) -> Self {
        let length_min = given.take_number("length_min", 1, LENGTH_LIMIT).unwrap_or(LENGTH_MIN);
        let classes_min = given.take_number("classes_min", 1, CLASSES).unwrap_or(CLASSES_MIN);
        if classes_min > length_min {
            given.refuse("classes_min", "must not be more than length_min");
        }
        let own = given.take_texts("words").unwrap_or_default();
        for (index, word) in own.iter().enumerate() {
            if !WORD_CHARS.contains(&word.chars().count()) {
                let (least, most) = (WORD_CHARS.start(), WORD_CHARS.end());
                given.refuse(
                    format!("words[{index}]"),
                    format!("must have {least} to {most} characters"),
                );
            }
        }
        let words = WORDS.lines().chain(own.iter().map(String::as_str));
        Self {
            // Both are small.
            length_min: usize::try_from(length_min).unwrap_or(usize::MAX),
            classes_min: usize::try_from(classes_min).unwrap_or(usize::MAX),
            words: words.map(folded).collect(),
        }
    }

    /// All that is wrong with a password. No message has any part of it.
    pub(crate) fn problems(&self, password: &str) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let mut refuse = |message: String| {
            problems.push(FieldError {
                field: "password".into(),
                message,
            });
        };
        let length = password.chars().count();
        if length < self.length_min {
            refuse(format!(
                "must have at least {} characters, has {length}",
                self.length_min
            ));
        }
        let classes = classes(password);
        if classes < self.classes_min {
            refuse(format!(
                "must have {} of: lower case letters, capitals, digits, others; has {classes}",
                self.classes_min
            ));
        }
        let folded = folded(password);
        if self.words.iter().any(|word| folded.contains(word.as_str())) {
            refuse("must not have a word in it that is in many passwords, nor one with digits for letters".into());
        }
        problems
    }

    /// A strong one. `random` gives as many bytes as it is asked for.
    ///
    /// # Errors
    /// If the settings leave none.
    pub(crate) fn generate(&self, mut random: impl FnMut(u32) -> Vec<u8>) -> Result<String, String> {
        let length = self.length_min.max(GENERATED_LENGTH);
        // Whoever takes what is left of a byte divided by 66 prefers the first letters.
        let unbiased = 256 - 256 % ALPHABET.len();
        for _ in 0..ATTEMPTS {
            let mut password = String::new();
            while password.len() < length {
                let bytes = random(RANDOM_BYTES).into_iter().map(usize::from);
                let usable = bytes.filter(|byte| *byte < unbiased);
                let letters = usable.filter_map(|byte| ALPHABET.get(byte % ALPHABET.len()));
                password.extend(letters.take(length - password.len()).map(|byte| char::from(*byte)));
            }
            if self.problems(&password).is_empty() {
                return Ok(password);
            }
        }
        Err(format!(
            "{ATTEMPTS} passwords were generated, and the words in this policy's settings forbid them all: whoever keeps \
             them has to take some away"
        ))
    }
}

/// How many kinds of characters there are: lower case letters, capitals, digits, all others.
fn classes(password: &str) -> usize {
    let has = |class: fn(char) -> bool| usize::from(password.chars().any(class));
    has(char::is_lowercase)
        + has(char::is_uppercase)
        + has(char::is_numeric)
        + has(|c| !c.is_lowercase() && !c.is_uppercase() && !c.is_numeric())
}

/// Without what people disguise words with: capitals, and digits and signs that look like letters.
fn folded(text: &str) -> String {
    let plain = |c: char| match c {
        '0' => 'o',
        '1' | '!' | 'l' => 'i',
        '3' => 'e',
        '4' | '@' => 'a',
        '5' | '$' => 's',
        '7' => 't',
        other => other,
    };
    text.chars().flat_map(char::to_lowercase).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strength(settings: &str) -> Result<Strength, Vec<String>> {
        let mut given = Given::parse(settings);
        let strength = Strength::take(&mut given);
        given
            .finish(strength)
            .map_err(|problems| problems.into_iter().map(|problem| problem.field).collect())
    }

    fn problems(settings: &str, password: &str) -> Vec<String> {
        let problems = strength(settings).expect("they fit").problems(password);
        problems.into_iter().map(|problem| problem.message).collect()
    }

    /// Marsaglia's xorshift: the same in every run.
    fn chance(mut seed: u64) -> impl FnMut(u32) -> Vec<u8> {
        move |bytes| {
            let mut next = || {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                seed.to_le_bytes()[3]
            };
            (0..bytes).map(|_| next()).collect()
        }
    }

    #[test]
    fn everything_that_is_wrong_is_told_and_nothing_of_the_password() {
        let told = problems("{}", "dragon");
        assert_eq!(told.len(), 3, "{told:?}");
        assert_eq!(told[0], "must have at least 12 characters, has 6");
        assert_eq!(
            told[1],
            "must have 3 of: lower case letters, capitals, digits, others; has 1"
        );
        assert!(!told.concat().contains("dragon"), "{told:?}");
        assert_eq!(problems("{}", "kV7pxwT2mqRz"), Vec::<String>::new());
    }

    #[test]
    fn length_is_in_characters_and_their_kinds_are_those_of_every_script() {
        let settings = r#"{ "length_min": 4, "classes_min": 4 }"#;
        assert_eq!(problems(settings, "жЖ9-"), Vec::<String>::new());
        assert_eq!(problems(settings, "жЖ99").len(), 1);
        assert_eq!(problems(r#"{ "length_min": 5, "classes_min": 4 }"#, "жЖ9-").len(), 1);
    }

    #[test]
    fn a_word_is_found_however_it_is_written_and_a_team_can_add_its_own() {
        for password in ["xK9-PaSsWoRd-q", "xK9-p4$$w0rd-q", "7-W3LC0ME-to-us", "Q-Le7mein-2026"] {
            assert_eq!(problems("{}", password).len(), 1, "{password}");
        }
        let acme = "xK9-Acm3Rocket-q";
        assert_eq!(problems("{}", acme), Vec::<String>::new());
        assert_eq!(problems(r#"{ "words": ["acmerocket"] }"#, acme).len(), 1);
    }

    #[test]
    fn what_is_generated_is_strong_enough_for_every_setting() {
        for settings in [
            "{}",
            r#"{ "classes_min": 4 }"#,
            r#"{ "length_min": 128, "words": ["a0a"] }"#,
        ] {
            let strength = strength(settings).expect("they fit");
            for seed in 1..200 {
                let password = strength.generate(chance(seed)).expect("there is one");
                assert_eq!(password.len(), strength.length_min.max(28));
                assert!(
                    strength.problems(&password).is_empty(),
                    "{settings}, seed {seed}: {password}"
                );
            }
        }
    }

    #[test]
    fn every_letter_comes_up_as_often_as_every_other() {
        let strength = strength(r#"{ "classes_min": 1 }"#).expect("they fit");
        let mut counts = [0_u32; 256];
        for seed in 1..2000 {
            for byte in strength.generate(chance(seed)).expect("there is one").bytes() {
                counts[usize::from(byte)] += 1;
            }
        }
        let each = 1999 * 28 / 66;
        for &letter in ALPHABET {
            let count = counts[usize::from(letter)];
            assert!(
                (each * 8 / 10..each * 12 / 10).contains(&count),
                "{}: {count} of {each}",
                char::from(letter)
            );
        }
    }

    #[test]
    fn settings_that_leave_no_password_end_in_an_error() {
        let mut words: Vec<String> = Vec::new();
        for letter in ALPHABET.iter().map(|byte| char::from(*byte).to_string()) {
            words.push(letter.repeat(3));
        }
        let strength = Strength {
            words: words.iter().map(|word| folded(&word[..1])).collect(),
            ..strength("{}").expect("they fit")
        };
        let reason = strength.generate(chance(1)).expect_err("every letter is a word");
        assert!(reason.contains("the words in this policy's settings"), "{reason}");
    }

    #[test]
    fn every_wrong_setting_is_named() {
        assert_eq!(
            strength(r#"{ "length_min": 0, "classes_min": 5, "words": ["ab", "abc"], "word": [] }"#),
            Err(["length_min", "classes_min", "words[0]", "word"]
                .map(str::to_owned)
                .to_vec())
        );
        assert_eq!(
            strength(r#"{ "length_min": 2 }"#),
            Err(vec!["classes_min".into()]),
            "three kinds in two characters"
        );
    }

    #[test]
    fn the_compiled_in_words_are_sorted_and_none_is_too_short() {
        let words: Vec<&str> = WORDS.lines().collect();
        assert!(words.is_sorted());
        for word in words {
            assert!(
                word.len() >= 4 && word.bytes().all(|byte| byte.is_ascii_alphanumeric()),
                "{word}"
            );
        }
    }
}
