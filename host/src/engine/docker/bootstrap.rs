//! Superusers whose names `initdb` can't take: it starts with another name, and a script in the container gives the
//! right one before anybody can connect.
//!
//! `initdb` writes the name into its bootstrap file and into `ALTER USER` as it is, so that quotes, `$`, `\` and line
//! feeds break it, as do the words that it replaces there (`ENCODING`, `POSTGRES`, …); seen in 15 and 17.

use bytes::Bytes;

use crate::instance::RoleName;

/// The variable that tells the script the superuser's name.
pub(super) const USERNAME_VARIABLE: &str = "DEV_POSTGRES_MCP_USERNAME";
/// The name that `initdb` gets instead of one that it can't take. The script below has it too.
const STAND_IN: &str = "postgres";
/// Where the image's entrypoint looks for scripts, which it runs in the order of their names; ours comes last, because
/// the others go by `POSTGRES_USER`.
const SCRIPT_PATH: &str = "docker-entrypoint-initdb.d/zzz-dev-postgres-mcp.sh";
/// PostgreSQL renames no role that runs the session. No name that takes this way can be `renamer`: that one is plain.
/// The verifier is set again, because a rename clears an MD5 one, and is no argument of psql, which anybody on the
/// machine could read.
const SCRIPT: &str = r#"# Gives the superuser the name that dev-postgres-mcp was asked for.
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname=postgres \
    --set=name="$DEV_POSTGRES_MCP_USERNAME" <<'SQL'
\set verifier `printenv POSTGRES_PASSWORD`
CREATE ROLE renamer SUPERUSER;
SET SESSION AUTHORIZATION renamer;
ALTER ROLE postgres RENAME TO :"name";
ALTER ROLE :"name" PASSWORD :'verifier';
RESET SESSION AUTHORIZATION;
DROP ROLE renamer;
SQL
"#;

/// What `POSTGRES_USER` is to say.
pub(super) fn user(username: &RoleName) -> &str {
    if is_plain(username) {
        username.as_str()
    } else {
        STAND_IN
    }
}

/// The script as the archive that Docker unpacks at the container's root; `None` where none is needed.
pub(super) fn archive(username: &RoleName) -> Option<Bytes> {
    if is_plain(username) {
        return None;
    }
    let mut header = tar::Header::new_ustar();
    header.set_size(SCRIPT.len() as u64);
    // Readable, not executable: the entrypoint reads such a script in its own shell, whatever the image's shells are.
    header.set_mode(0o644);
    let mut archive = tar::Builder::new(Vec::new());
    // Writing to memory can't fail.
    archive.append_data(&mut header, SCRIPT_PATH, SCRIPT.as_bytes()).ok()?;
    archive.into_inner().map(Bytes::from).ok()
}

/// Names that `initdb` is known to take are few but common.
fn is_plain(username: &RoleName) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    username.as_str().chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> RoleName {
        text.parse().expect("a role name")
    }

    #[test]
    fn a_plain_name_needs_no_script() {
        for plain in ["postgres", "app_user", "u1"] {
            assert_eq!(user(&name(plain)), plain);
            assert!(archive(&name(plain)).is_none());
        }
    }

    #[test]
    fn any_other_name_is_given_by_the_script() {
        for other in ["us er", "O'Neil", "ENCODING", "ünï", "a\nb", "--help"] {
            assert_eq!(user(&name(other)), STAND_IN);
            let archive = archive(&name(other)).expect("an archive");
            let mut archive = tar::Archive::new(&*archive);
            let entry = archive
                .entries()
                .expect("entries")
                .next()
                .expect("one")
                .expect("readable");
            assert_eq!(entry.path().expect("a path").to_str(), Some(SCRIPT_PATH));
        }
    }
}
