//! What a server may reach: its own data, its own port, and what it takes to run.
//!
//! A superuser of PostgreSQL can run programs, which have all rights of the user that the server runs as: that of every
//! other local instance, and often of somebody who may use Docker. On Linux a process can give such rights up, and what it
//! starts has them neither: files and TCP ports and signals by Landlock (<https://docs.kernel.org/userspace-api/landlock.html>),
//! Unix sockets, which Landlock doesn't know before Linux 7.1, and what leads around it, by seccomp. No other system that we run
//! on has the like for everybody.
//!
//! What is left to it: UDP; what its user's files are called, how large and how old they are, and to change the latter; its user's
//! System V memory and semaphores. What it loses beside: a system call that changes modes by path can't be told whose file it
//! is for, so `CREATE TABLESPACE` works in place only.

use std::io;
use std::path::{Path, PathBuf};

use tokio::process::{Child, Command};

use crate::instance::Port;

/// What one server may reach.
#[derive(Debug)]
#[cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, reason = "nothing keeps a server to it there")
)]
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
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "there is none there"))]
pub(super) enum Confinement {
    Full,
    /// What stays in reach, as a clause.
    Partial(String),
    /// Why, as a clause.
    None(String),
}

/// Where server programs were installed, with their libraries and data: Debian's are in `<prefix>/lib/postgresql/17/bin`,
/// Homebrew's in `<prefix>/Cellar/postgresql@17/17.2/bin`, all others in `<prefix>/bin`. Of a prefix that their user's `home` is in, or that is it, no more than they need.
pub(super) fn installation(bin_dir: &Path, home: Option<&Path>) -> Vec<PathBuf> {
    let Some(parent) = bin_dir.parent() else {
        return Vec::new();
    };
    let marked = |end: &str| bin_dir.ancestors().find(|folder| folder.ends_with(end));
    let prefix = match (marked("lib/postgresql"), marked("Cellar")) {
        (Some(folder), _) => folder.ancestors().nth(2),
        (None, Some(cellar)) => cellar.parent(),
        (None, None) => Some(parent),
    };
    let prefix = prefix.unwrap_or(parent);
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
#[allow(clippy::unnecessary_wraps, reason = "it can fail on Linux")]
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

    /// What gives files that a process can't open other modes, owners or access lists, by their paths. The last three by their
    /// numbers, which are the same on all processors: fchmodat2, setxattrat and removexattrat are younger than the headers of some.
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
        libc::SYS_removexattr,
        libc::SYS_lremovexattr,
        452,
        463,
        466,
    ];
    /// What the x32 kind of program calls by numbers of its own.
    #[cfg(target_arch = "x86_64")]
    const X32: libc::c_long = 0x4000_0000;

    /// Does `work` where only `reach` is in reach.
    pub(super) fn apart<T: Send>(reach: &Reach, work: impl FnOnce() -> T + Send) -> io::Result<(Confinement, T)> {
        let runtime = Handle::current();
        // What a thread has given up it never gets back: this takes one of its own.
        let done = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let _entered = runtime.enter();
                (give_up_all_but(reach), work())
            });
            thread.join()
        });
        done.map_err(|_| io::Error::other("the thread that starts it has panicked"))
    }

    /// As far as it goes: a server that reaches more than it need is better than none.
    fn give_up_all_but(reach: &Reach) -> Confinement {
        let (status, kernel) = match give_up_rights(reach) {
            Ok(given_up) => given_up,
            Err(error) => return Confinement::None(error.to_string()),
        };
        if status == RulesetStatus::NotEnforced {
            return Confinement::None("this kernel has no Landlock, or none that is enabled".into());
        }
        let known = match kernel {
            LandlockStatus::Available { effective_abi, .. } => effective_abi,
            LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => ABI::Unsupported,
        };
        let sockets = give_up_calls().map_err(|error| error.to_string());
        confinement(known, sockets.err())
    }

    fn confinement(known: ABI, no_sockets: Option<String>) -> Confinement {
        let mut reached = Vec::new();
        if known < ABI::V3 {
            reached.push("its user's files can be cut off (that takes Linux 6.2)".to_owned());
        }
        if known < ABI::V4 {
            reached.push("all TCP ports can be connected to (6.7)".to_owned());
        }
        if known < ABI::V6 {
            reached.push("its user's processes can be ended (6.12)".to_owned());
        }
        reached.extend(no_sockets.map(|reason| format!("Unix sockets, Docker's among them, stay in reach ({reason})")));
        if reached.is_empty() {
            Confinement::Full
        } else {
            Confinement::Partial(reached.join(", "))
        }
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
        ]);
        // Another process's limits, of which one is how much CPU time it may use before it is killed, and its turns at the CPU.
        for call in [
            libc::SYS_prlimit64,
            libc::SYS_sched_setaffinity,
            libc::SYS_sched_setattr,
            libc::SYS_sched_setparam,
            libc::SYS_sched_setscheduler,
        ] {
            denied.insert(call, vec![not_among(0, &[0])?]);
        }
        // These have a kind before the process: `PRIO_PROCESS`, and `IOPRIO_WHO_PROCESS`.
        for (call, process) in [(libc::SYS_setpriority, 0), (libc::SYS_ioprio_set, 1)] {
            denied.insert(call, vec![not_among(0, &[process])?, not_among(1, &[0])?]);
        }
        denied.extend(MODES.iter().map(|&call| (call, Vec::new())));
        // Some kernels know them by another number, too, for programs of the x32 kind: most with a bit set, two by one of their own.
        #[cfg(target_arch = "x86_64")]
        {
            let again: Vec<_> = denied.iter().map(|(call, rules)| (call | X32, rules.clone())).collect();
            denied.extend(again);
            denied.insert(X32 + 518, fast_open(2)?);
            denied.insert(X32 + 538, fast_open(3)?);
        }
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
        fn what_a_kernel_leaves_in_reach_is_named() {
            let none = None;
            assert_eq!(confinement(ABI::V6, none.clone()), Confinement::Full);
            assert_eq!(confinement(ABI::V8, none.clone()), Confinement::Full);
            let told = |known, no_sockets| match confinement(known, no_sockets) {
                Confinement::Partial(reached) => reached,
                other => panic!("{other:?}"),
            };
            let (processes, ports, files) = ("processes", "TCP", "files");
            assert!(told(ABI::V5, none.clone()).contains(processes) && !told(ABI::V5, none.clone()).contains(ports));
            assert!(told(ABI::V3, none.clone()).contains(ports) && !told(ABI::V3, none.clone()).contains(files));
            let old = told(ABI::V1, Some("no seccomp".into()));
            for word in [processes, ports, files, "no seccomp"] {
                assert!(old.contains(word), "{old}");
            }
            assert!(told(ABI::V6, Some("no seccomp".into())).starts_with("Unix sockets"));
        }

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
            (
                "/home/me/.linuxbrew/Cellar/postgresql@17/17.2/bin",
                "/home/me/.linuxbrew",
            ),
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
