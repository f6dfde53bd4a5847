//! Limits of memory, CPU and processes, as far as this machine lets them be set: by Linux' control groups, of either
//! version, where this process may make one. Elsewhere there are none.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::instance_dir::InstanceDir;
use super::server;
use crate::failpoint;
use crate::instance::{Limits, MEMORY_MIB_MIN, MemoryKills, Share};

/// Where control groups are mounted.
const MOUNTED: &str = "/sys/fs/cgroup";
/// This process's own groups.
const OWN: &str = "/proc/self/cgroup";
/// The period that a CPU limit is a share of, in µs: the kernel's default.
const PERIOD_US: u32 = 100_000;
/// How many processes and threads an instance may have, as in a container.
const PROCESSES_MAX: u32 = 256;
/// How long a group stays busy whose last process has ended.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);

/// What the names of groups begin with that are only made to see whether they can be; the maker's process id follows.
const CHECK: &str = "dev-postgres-mcp-check-";

/// A group to be made, in any one of these places.
struct Group {
    parents: Vec<PathBuf>,
    /// Files and what is written to them, and whether they must be there.
    settings: Vec<(&'static str, String, bool)>,
}

/// Limits a server that has just been started.
///
/// # Errors
/// Why not all limits hold, one clause.
pub(super) fn set(folder: &InstanceDir, limits: Limits, pid: u32) -> Result<(), String> {
    let name = name(folder);
    let note = |path: &Path| folder.add_control_group(path).map_err(|error| error.to_string());
    own_groups(limits)?
        .iter()
        .try_for_each(|group| group.make(&name, note, Some(pid)).map(drop))
}

/// Whether limits can be set: makes groups and removes them again.
///
/// # Errors
/// Why not, one clause.
pub(super) fn check(limits: Limits) -> Result<(), String> {
    let name = format!("{CHECK}{}", std::process::id());
    own_groups(limits)?.iter().try_for_each(|group| {
        for parent in &group.parents {
            remove_left_checks(parent);
        }
        let path = group.make(&name, |_| Ok(()), None)?;
        remove_group(&path).map_err(|error| error.to_string())
    })
}

/// Removes the groups of checks whose processes were killed. Nothing ever runs in one.
fn remove_left_checks(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.strip_prefix(CHECK)?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            // Another check may have been faster.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn own_groups(limits: Limits) -> Result<Vec<Group>, String> {
    let own = fs::read_to_string(OWN).map_err(|_| "this platform has no control groups".to_owned())?;
    let groups = groups(Path::new(MOUNTED), &own, limits);
    if groups.is_empty() {
        return Err("there are no control groups for memory and CPU".into());
    }
    Ok(groups)
}

/// What is to be made, by what this process is in: version 1 has a tree for each kind of limit, version 2 one for all.
fn groups(mounted: &Path, own: &str, limits: Limits) -> Vec<Group> {
    let memory = (u64::from(limits.memory_mib()) << 20).to_string();
    let quota = (u64::from(limits.cpu_millis()) * u64::from(PERIOD_US) / 1000).to_string();
    let mut groups = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(kinds), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let within = |tree: &str| mounted.join(tree).join(path.trim_start_matches('/'));
        for kind in kinds.split(',') {
            let settings = match kind {
                "memory" => vec![
                    ("memory.limit_in_bytes", memory.clone(), true),
                    // Swap is counted only where the kernel was told to.
                    ("memory.memsw.limit_in_bytes", memory.clone(), false),
                ],
                "cpu" => vec![
                    ("cpu.cfs_period_us", PERIOD_US.to_string(), true),
                    ("cpu.cfs_quota_us", quota.clone(), true),
                ],
                "pids" => vec![("pids.max", PROCESSES_MAX.to_string(), true)],
                _ => continue,
            };
            groups.push(Group {
                parents: vec![within(kinds), within(kind)],
                settings,
            });
        }
        if kinds.is_empty() {
            let has_kinds = |parent: &Path| {
                fs::read_to_string(parent.join("cgroup.subtree_control")).is_ok_and(|kinds| {
                    ["memory", "cpu", "pids"]
                        .iter()
                        .all(|kind| kinds.split_whitespace().any(|k| k == *kind))
                })
            };
            let here = within("");
            let parents: Vec<PathBuf> = here
                .ancestors()
                .take_while(|parent| parent.starts_with(mounted))
                .filter(|parent| has_kinds(parent))
                .map(Path::to_owned)
                .collect();
            if !parents.is_empty() {
                groups.push(Group {
                    parents,
                    settings: vec![
                        ("memory.max", memory.clone(), true),
                        ("memory.swap.max", "0".into(), false),
                        ("cpu.max", format!("{quota} {PERIOD_US}"), true),
                        ("pids.max", PROCESSES_MAX.to_string(), true),
                    ],
                });
            }
        }
    }
    groups
}

impl Group {
    /// Makes the group in the first place where that can be done, and puts the process into it. `note` is called before
    /// something is made, so that whoever removes the instance finds it.
    fn make(
        &self,
        name: &str,
        note: impl Fn(&Path) -> Result<(), String>,
        pid: Option<u32>,
    ) -> Result<PathBuf, String> {
        let mut reason = String::new();
        for parent in self.parents.iter().filter(|parent| parent.is_dir()) {
            let path = parent.join(name);
            note(&path)?;
            failpoint::pass("before making a control group");
            match self.try_make(&path, pid) {
                Ok(()) => {
                    failpoint::pass("after making a control group");
                    return Ok(path);
                }
                Err(error) => reason = format!("{}: {error}", path.display()),
            }
            // Nothing runs in it.
            let _ = fs::remove_dir(&path);
        }
        Err(reason)
    }

    fn try_make(&self, path: &Path, pid: Option<u32>) -> io::Result<()> {
        fs::create_dir(path)?;
        failpoint::pass("amid making a control group");
        for (file, value, required) in &self.settings {
            match fs::write(path.join(file), value) {
                Err(error) if *required => return Err(error),
                _ => {}
            }
        }
        pid.map_or(Ok(()), |pid| fs::write(path.join("cgroup.procs"), pid.to_string()))
    }
}

fn name(folder: &InstanceDir) -> String {
    format!("dev-postgres-mcp-{}", folder.id())
}

/// Removes an instance's groups, and what still runs in them: a program that SQL has started may outlive the server.
///
/// # Errors
/// If one stays busy.
pub(super) fn remove(folder: &InstanceDir) -> io::Result<()> {
    let name = name(folder);
    let mut groups = noted_groups(folder);
    // Somebody may have deleted the file with the folder.
    let own = own_parents().into_iter().map(|parent| parent.join(&name));
    groups.extend(own.filter(|path| path.exists()));
    groups.iter().try_for_each(|path| remove_group(path))
}

fn noted_groups(folder: &InstanceDir) -> Vec<PathBuf> {
    let (name, mut groups) = (name(folder), folder.control_groups());
    // Only what `set` could have made, whatever the file says.
    groups.retain(|path| path.starts_with(MOUNTED) && path.ends_with(&name));
    groups
}

/// What the kernel counts for an instance in its groups, and what it may have there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct InGroups {
    /// Bytes, without those of the file cache that can be had back at once; `None` if there is no group for memory.
    pub(super) memory_bytes: Option<Share>,
    /// In thousandths of a core; `None` if there is no limit.
    pub(super) cpu_millis_max: Option<u64>,
}

/// Reads an instance's groups; of one that isn't limited nothing.
pub(super) fn usage(folder: &InstanceDir) -> InGroups {
    usage_in(&noted_groups(folder))
}

fn usage_in(groups: &[PathBuf]) -> InGroups {
    let mut found = InGroups::default();
    for group in groups {
        let text = |file: &str| fs::read_to_string(group.join(file)).ok();
        let number = |file: &str| text(file)?.trim().parse::<u64>().ok();
        if let Some(used) = number("memory.current").or_else(|| number("memory.usage_in_bytes")) {
            let stat = text("memory.stat").unwrap_or_default();
            // Version 1 has both: the first is the whole group's.
            let cache = entry(&stat, "total_inactive_file").or_else(|| entry(&stat, "inactive_file"));
            found.memory_bytes = Some(Share {
                used: used.saturating_sub(cache.unwrap_or_default()),
                limit: number("memory.max").or_else(|| number("memory.limit_in_bytes")),
            });
        }
        let quota = text("cpu.max").or_else(|| {
            let (quota, period) = (text("cpu.cfs_quota_us")?, text("cpu.cfs_period_us")?);
            Some(format!("{quota} {period}"))
        });
        found.cpu_millis_max = found.cpu_millis_max.or_else(|| {
            let quota = quota?;
            let mut words = quota.split_whitespace().map(str::parse::<u64>);
            let (quota, period) = (words.next()?.ok()?, words.next()?.ok()?);
            (quota * 1000).checked_div(period)
        });
    }
    found
}

/// How often the kernel has killed a process of an instance in its groups; `None` if it has none, or the kernel doesn't
/// count.
pub(super) fn memory_kills(folder: &InstanceDir) -> Option<MemoryKills> {
    kills_in(&noted_groups(folder))
}

fn kills_in(groups: &[PathBuf]) -> Option<MemoryKills> {
    groups.iter().find_map(|group| {
        // Version 2 has the first, version 1 the second.
        let counters = ["memory.events", "memory.oom_control"].map(|file| fs::read_to_string(group.join(file)).ok());
        let count = counters.iter().flatten().find_map(|text| entry(text, "oom_kill"))?;
        let within = usage_in(std::slice::from_ref(group));
        Some(MemoryKills {
            count,
            limit_bytes: within.memory_bytes.and_then(|memory| memory.limit),
        })
    })
}

/// The number beside a name, in a file with one of each a line.
fn entry(text: &str, name: &str) -> Option<u64> {
    let number = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(number)
}

/// Where an instance that this process makes has its groups.
fn own_parents() -> Vec<PathBuf> {
    // Any limits will do.
    let limits = Limits::new(MEMORY_MIB_MIN, 1000).ok();
    let groups = limits.and_then(|limits| own_groups(limits).ok()).unwrap_or_default();
    groups.into_iter().flat_map(|group| group.parents).collect()
}

fn remove_group(path: &Path) -> io::Result<()> {
    let late = Instant::now() + BUSY_TIMEOUT;
    loop {
        for line in fs::read_to_string(path.join("cgroup.procs"))
            .unwrap_or_default()
            .lines()
        {
            if let Ok(pid) = line.parse() {
                server::kill(pid);
            }
        }
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() >= late => return Err(error),
            // Nothing tells when a killed process has left its group.
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
            Ok(()) => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits::new(512, 1500).expect("limits")
    }

    fn settings(group: &Group) -> Vec<String> {
        group
            .settings
            .iter()
            .map(|(file, value, _)| format!("{file}={value}"))
            .collect()
    }

    #[test]
    fn version_1_has_a_group_for_each_kind_of_limit_below_this_processs_own() {
        let own = "9:name=systemd:/\n8:pids:/\n4:memory:/job/a\n3:cpu,cpuacct:/\n0::/\n";
        let groups = groups(Path::new("/mounted"), own, limits());
        let [pids, memory, cpu] = &groups[..] else {
            panic!("{} groups", groups.len());
        };
        assert_eq!(settings(pids), ["pids.max=256"]);
        assert_eq!(memory.parents[0], Path::new("/mounted/memory/job/a"));
        assert_eq!(
            settings(memory),
            [
                "memory.limit_in_bytes=536870912",
                "memory.memsw.limit_in_bytes=536870912"
            ]
        );
        assert_eq!(
            cpu.parents,
            ["/mounted/cpu,cpuacct/", "/mounted/cpu/"].map(PathBuf::from)
        );
        assert_eq!(settings(cpu), ["cpu.cfs_period_us=100000", "cpu.cfs_quota_us=150000"]);
    }

    #[test]
    fn version_2_has_one_group_in_the_nearest_place_that_hands_on_every_kind() {
        let root = tempfile::tempdir().expect("a directory");
        let leaf = root.path().join("user/app/me");
        fs::create_dir_all(&leaf).expect("a directory");
        for (place, kinds) in [
            ("", "cpu memory pids io"),
            ("user", "memory pids cpu"),
            ("user/app", "memory pids"),
        ] {
            fs::write(root.path().join(place).join("cgroup.subtree_control"), kinds).expect("a file");
        }
        let groups = groups(root.path(), "0::/user/app/me\n", limits());
        assert_eq!(groups.len(), 1);
        assert_eq!(groups[0].parents, [root.path().join("user"), root.path().to_owned()]);
        assert_eq!(
            settings(&groups[0]),
            [
                "memory.max=536870912",
                "memory.swap.max=0",
                "cpu.max=150000 100000",
                "pids.max=256"
            ]
        );
    }

    #[test]
    fn what_the_kernel_counts_is_read_from_groups_of_either_version() {
        let root = tempfile::tempdir().expect("a directory");
        let group = |name: &str, files: &[(&str, &str)]| {
            let path = root.path().join(name);
            fs::create_dir(&path).expect("a directory");
            for (file, text) in files {
                fs::write(path.join(file), text).expect("a file");
            }
            path
        };
        let memory = group(
            "memory",
            &[
                ("memory.usage_in_bytes", "5000\n"),
                ("memory.stat", "inactive_file 1\ntotal_inactive_file 2000\n"),
                ("memory.limit_in_bytes", "9000\n"),
                ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
            ],
        );
        let cpu = group(
            "cpu",
            &[("cpu.cfs_quota_us", "150000\n"), ("cpu.cfs_period_us", "100000\n")],
        );
        let second = group(
            "2",
            &[
                ("memory.current", "5000\n"),
                ("memory.stat", "anon 7\ninactive_file 2000\n"),
                ("memory.max", "9000\n"),
                ("cpu.max", "150000 100000\n"),
                ("memory.events", "max 12\noom 3\noom_kill 2\noom_group_kill 0\n"),
            ],
        );
        let expected = InGroups {
            memory_bytes: Some(Share {
                used: 3000,
                limit: Some(9000),
            }),
            cpu_millis_max: Some(1500),
        };
        let kills = MemoryKills {
            count: 2,
            limit_bytes: Some(9000),
        };
        for groups in [vec![cpu, memory], vec![second]] {
            assert_eq!(usage_in(&groups), expected);
            assert_eq!(kills_in(&groups), Some(kills));
        }
        let unlimited = group("free", &[("memory.max", "max\n"), ("cpu.max", "max 100000\n")]);
        let nothing = [unlimited, root.path().join("gone")];
        assert_eq!((usage_in(&nothing), kills_in(&nothing)), (InGroups::default(), None));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_a_killed_check_has_left_goes_with_the_next_one_and_nothing_else_does() {
        let root = tempfile::tempdir().expect("a directory");
        // Linux has no process of this number.
        let left = format!("{CHECK}{}", u32::MAX);
        let own = format!("{CHECK}{}", std::process::id());
        let others = [own.as_str(), "dev-postgres-mcp-check-mine", "4294967295"];
        for name in others.into_iter().chain([left.as_str()]) {
            fs::create_dir(root.path().join(name)).expect("a directory");
        }
        remove_left_checks(root.path());
        assert!(!root.path().join(&left).exists());
        assert!(others.into_iter().all(|name| root.path().join(name).exists()));
    }

    #[test]
    fn nothing_is_planned_where_nothing_is_handed_on() {
        let root = tempfile::tempdir().expect("a directory");
        assert!(groups(root.path(), "0::/user\n", limits()).is_empty());
        assert!(groups(root.path(), "", limits()).is_empty());
    }
}
