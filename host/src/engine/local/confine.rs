//! What a server may reach: its own data, its own port, and what it takes to run.
//!
//! A superuser of PostgreSQL can run programs, which have all rights of the user that the server runs as: that of every
//! other local instance, and often of somebody who may use Docker. On Linux a process can give such rights up, and what it
//! starts has them neither: files and TCP ports and signals by Landlock (<https://docs.kernel.org/userspace-api/landlock.html>),
//! Unix sockets, which Landlock doesn't know before Linux 7.1, and what leads around it, by seccomp. No other system that we run
//! on has the like for everybody.
//!
//! What is left to it: UDP, and to look at what its user's files are called, how large and how old, and to change the latter.

use std::io;
use std::path::{Path, PathBuf};

use tokio::process::{Child, Command};

use crate::instance::Port;

/// What one server may reach.
#[derive(Debug)]
pub(super) struct Reach {
    /// All of it.
    pub(super) data: PathBuf,
    /// To read and run what is in them.
    pub(super) readable: Vec<PathBuf>,
    /// Nothing of it but `data`, whatever of the above it is in.
    pub(super) hidden: PathBuf,
    /// To listen on and to connect to.
    pub(super) port: Port,
}

/// How far a server is kept to its [`Reach`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Confinement {
    Full,
    /// What is missing, as a sentence.
    Partial(String),
    /// Why, as a sentence.
    None(String),
}

/// Where server programs were installed, with their libraries and data: Debian's are in `<prefix>/lib/postgresql/17/bin`, all
/// others in `<prefix>/bin`. Of a prefix that their user's `home` is in, or that is it, no more than they need.
pub(super) fn installation(bin_dir: &Path, home: Option<&Path>) -> Vec<PathBuf> {
    let Some(parent) = bin_dir.parent() else {
        return Vec::new();
    };
    let prefix = match parent.parent() {
        Some(folder) if folder.ends_with("lib/postgresql") => folder.ancestors().nth(2).unwrap_or(parent),
        _ => parent,
    };
    if prefix == Path::new("/") || home.is_some_and(|home| home.starts_with(prefix)) {
        return vec![bin_dir.to_owned(), prefix.join("lib"), prefix.join("share")];
    }
    vec![prefix.to_owned()]
}

/// Starts a server that reaches no more than it may, as far as this system lets us see to that. What `command` is to do as
/// another user it still does.
///
/// # Errors
/// If it can't be started.
pub(super) fn spawn(command: &mut Command, reach: &Reach) -> io::Result<Child> {
    apart(reach, || command.spawn()).and_then(|(confinement, child)| {
        tracing::debug!(?confinement, "started a server");
        child
    })
}

/// How far servers would be kept to their reach.
///
/// # Errors
/// If it can't be told.
pub(super) fn check() -> io::Result<Confinement> {
    let nothing = Reach {
        data: PathBuf::new(),
        readable: Vec::new(),
        hidden: PathBuf::new(),
        port: Port::try_from(1).map_err(io::Error::other)?,
    };
    apart(&nothing, || ()).map(|(confinement, ())| confinement)
}

#[cfg(target_os = "linux")]
use self::linux::apart;

#[cfg(not(target_os = "linux"))]
fn apart<T>(_reach: &Reach, work: impl FnOnce() -> T) -> io::Result<(Confinement, T)> {
    let none = Confinement::None("this system has no means that everybody may use".into());
    Ok((none, work()))
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeMap;
    use std::fs;
    use std::io;
    use std::path::{Path, PathBuf};
    use std::thread;

    use landlock::{
        ABI, Access as _, AccessFs, AccessNet, LandlockStatus, NetPort, Ruleset, RulesetAttr as _,
        RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, path_beneath_rules,
    };
    use nix::libc;
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    };
    use tokio::runtime::Handle;

    use super::{Confinement, Reach};

    /// What is handled, and all that our rules are written for: files since Linux 5.13, TCP since 6.7, signals since 6.12.
    const KNOWN: ABI = ABI::V6;
    /// Where systems keep programs, libraries and what those read; nobody's own files. Debian links PostgreSQL's
    /// dictionaries to its folder in `/var/cache`.
    const SYSTEM: [&str; 15] = [
        "/usr",
        "/bin",
        "/sbin",
        "/lib",
        "/lib32",
        "/lib64",
        "/libx32",
        "/etc",
        "/opt",
        "/nix",
        "/gnu",
        "/home/linuxbrew",
        "/var/cache/postgresql",
        "/proc",
        "/sys",
    ];
    /// What every program may write to; `/dev/shm` is shared by all of a user.
    const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

    /// What gives files that a process can't open other modes, owners or access lists, by their paths. The last two by their numbers,
    /// which are the same on all processors: fchmodat2 and setxattrat are younger than the headers of some.
    const MODES: &[libc::c_long] = &[
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chmod,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chown,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_lchown,
        libc::SYS_fchmodat,
        libc::SYS_fchownat,
        libc::SYS_setxattr,
        libc::SYS_lsetxattr,
        452,
        463,
    ];

    /// Does `work` where only `reach` is in reach.
    pub(super) fn apart<T: Send>(reach: &Reach, work: impl FnOnce() -> T + Send) -> io::Result<(Confinement, T)> {
        let runtime = Handle::current();
        // What a thread has given up it never gets back: this takes one of its own.
        let done = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let _entered = runtime.enter();
                give_up_all_but(reach).map(|confinement| (confinement, work()))
            });
            thread.join()
        });
        done.unwrap_or_else(|_| Err(io::Error::other("the thread that starts it has panicked")))
    }

    fn give_up_all_but(reach: &Reach) -> io::Result<Confinement> {
        let (ruleset, landlock) = give_up_rights(reach).map_err(io::Error::other)?;
        let sockets = give_up_calls();
        Ok(match (ruleset, sockets) {
            (RulesetStatus::FullyEnforced, Ok(())) => Confinement::Full,
            (RulesetStatus::FullyEnforced, Err(error)) => {
                Confinement::Partial(format!("Unix sockets, Docker's among them, stay in reach: {error}"))
            }
            (RulesetStatus::PartiallyEnforced, _) => Confinement::Partial(format!(
                "{} in reach: that takes Linux 6.12",
                match landlock {
                    LandlockStatus::Available { effective_abi, .. } if effective_abi < ABI::V4 =>
                        "other instances' ports and processes stay",
                    _ => "other instances' processes stay",
                }
            )),
            (RulesetStatus::NotEnforced, _) => {
                Confinement::None("this kernel has no Landlock, or none that is enabled".into())
            }
        })
    }

    fn give_up_rights(reach: &Reach) -> Result<(RulesetStatus, LandlockStatus), RulesetError> {
        let readable = SYSTEM
            .iter()
            .map(Path::new)
            .chain(reach.readable.iter().map(PathBuf::as_path));
        let readable = readable.flat_map(|folder| without(&reach.hidden, folder));
        let to_devices = AccessFs::ReadFile | AccessFs::WriteFile;
        let status = Ruleset::default()
            .handle_access(AccessFs::from_all(KNOWN))?
            .handle_access(AccessNet::from_all(KNOWN))?
            .scope(Scope::from_all(KNOWN))?
            .create()?
            .add_rules(path_beneath_rules(readable, AccessFs::from_read(KNOWN)))?
            .add_rules(path_beneath_rules(DEVICES, to_devices))?
            .add_rules(path_beneath_rules([&reach.data], AccessFs::from_all(KNOWN)))?
            .add_rule(NetPort::new(reach.port.get(), AccessNet::from_all(KNOWN)))?
            .restrict_self()?;
        Ok((status.ruleset, status.landlock))
    }

    /// What `folder` is without `hidden`: Landlock knows no exceptions from what it allows. Both as they really are.
    fn without(hidden: &Path, folder: &Path) -> Vec<PathBuf> {
        let Ok(folder) = fs::canonicalize(folder) else {
            return Vec::new();
        };
        if !hidden.starts_with(&folder) {
            return vec![folder];
        }
        if hidden == folder {
            return Vec::new();
        }
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        // What links lead to is somewhere else, and for those who may read that.
        let own = entries.filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_symlink()));
        own.flat_map(|entry| without(hidden, &entry.path())).collect()
    }

    /// What Landlock doesn't see.
    fn give_up_calls() -> seccompiler::Result<()> {
        let condition = |argument, comparison, value: libc::c_int| {
            SeccompCondition::new(
                argument,
                SeccompCmpArgLen::Dword,
                comparison,
                value.unsigned_abs().into(),
            )
        };
        let not_among = |argument, values: &[libc::c_int]| {
            let others = values.iter().map(|&value| condition(argument, SeccompCmpOp::Ne, value));
            let others = others.collect::<Result<Vec<_>, _>>();
            others.and_then(SeccompRule::new)
        };
        let with = |argument, mask: libc::c_int, value| {
            let masked = SeccompCmpOp::MaskedEq(mask.unsigned_abs().into());
            condition(argument, masked, value).and_then(|condition| SeccompRule::new(vec![condition]))
        };
        // Unix sockets, above all: Docker's, the desktop's, the system's each do things for this user. And what a TCP port answers
        // to without being TCP here, as MPTCP.
        let sockets = vec![
            not_among(0, &[libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK])?,
            not_among(
                2,
                &[
                    0,
                    libc::IPPROTO_TCP,
                    libc::IPPROTO_UDP,
                    libc::IPPROTO_ICMP,
                    libc::IPPROTO_ICMPV6,
                ],
            )?,
        ];
        // A pair of datagram sockets may leave each other for any other one; the kernel takes raw ones for such.
        let pairs = vec![with(1, 0xf, libc::SOCK_DGRAM)?, with(1, 0xf, libc::SOCK_RAW)?];
        // Connects without a word to Landlock.
        let fast_open = |argument| with(argument, libc::MSG_FASTOPEN, libc::MSG_FASTOPEN).map(|rule| vec![rule]);
        let mut denied = BTreeMap::from([
            (libc::SYS_socket, sockets),
            (libc::SYS_socketpair, pairs),
            (libc::SYS_sendto, fast_open(3)?),
            (libc::SYS_sendmsg, fast_open(2)?),
            (libc::SYS_sendmmsg, fast_open(3)?),
            // By this, system calls are made that no filter sees.
            (libc::SYS_io_uring_setup, Vec::new()),
            // This user's keys.
            (libc::SYS_keyctl, Vec::new()),
            (libc::SYS_add_key, Vec::new()),
            (libc::SYS_request_key, Vec::new()),
            // Another process's limits: one that may use no CPU time is killed.
            (libc::SYS_prlimit64, vec![not_among(0, &[0])?]),
        ]);
        denied.extend(MODES.iter().map(|&call| (call, Vec::new())));
        // Some kernels know most of them by another number, too, for programs of the x32 kind.
        #[cfg(target_arch = "x86_64")]
        let denied = denied
            .into_iter()
            .flat_map(|(call, rules)| [(call, rules.clone()), (call | 0x4000_0000, rules)])
            .collect();
        let filter: BpfProgram = SeccompFilter::new(
            denied,
            SeccompAction::Allow,
            SeccompAction::Errno(libc::EACCES as u32),
            std::env::consts::ARCH.try_into()?,
        )?
        .try_into()?;
        seccompiler::apply_filter(&filter)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn what_is_hidden_is_left_out_of_every_folder_that_it_is_in_and_nothing_else_is() {
            let home = tempfile::tempdir().expect("a folder");
            let at = |path: &str| home.path().join(path);
            for folder in ["bin", "state/instances", "state-of-others"] {
                fs::create_dir_all(at(folder)).expect("a folder");
            }
            std::os::unix::fs::symlink(at("state"), at("link")).expect("a link");
            let hidden = at("state");
            let left = |folder: &Path| {
                let mut left = without(&hidden, folder);
                left.sort();
                left
            };
            assert_eq!(left(home.path()), [at("bin"), at("state-of-others")]);
            assert_eq!(left(&at("bin")), [at("bin")]);
            for nothing in ["state", "link", "nowhere"] {
                assert_eq!(left(&at(nothing)), [] as [PathBuf; 0], "{nothing}");
            }
            assert!(!left(Path::new("/")).iter().any(|folder| hidden.starts_with(folder)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_installed_where_their_libraries_are_below() {
        for (bin_dir, expected) in [
            ("/usr/lib/postgresql/17/bin", "/usr"),
            ("/usr/pgsql-17/bin", "/usr/pgsql-17"),
            (
                "/home/me/.asdf/installs/postgres/17.2/bin",
                "/home/me/.asdf/installs/postgres/17.2",
            ),
            ("/opt/postgresql/17/bin", "/opt/postgresql/17"),
        ] {
            let home = Some(Path::new("/home/me"));
            assert_eq!(
                installation(Path::new(bin_dir), home),
                [Path::new(expected)],
                "{bin_dir}"
            );
        }
        assert_eq!(installation(Path::new("/"), None), [] as [PathBuf; 0]);
    }

    #[test]
    fn programs_in_their_users_home_do_not_have_all_that_is_there() {
        for (prefix, home) in [("/home/me", Some("/home/me")), ("/home", Some("/home/me")), ("/", None)] {
            let prefix = Path::new(prefix);
            let expected = ["bin", "lib", "share"].map(|name| prefix.join(name));
            assert_eq!(installation(&prefix.join("bin"), home.map(Path::new)), expected);
        }
    }
}
