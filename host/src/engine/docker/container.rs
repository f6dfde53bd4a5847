//! An instance as a container: how it is described to Docker, and how it is read back.

use std::collections::HashMap;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::SystemTime;

use bollard::models::{
    ContainerCreateBody, ContainerStateStatusEnum, ContainerSummary, ContainerSummaryStateEnum, HostConfig,
    HostConfigLogConfig, ImageInspect, Mount, MountTmpfsOptions, MountType, PortBinding, RestartPolicy,
    RestartPolicyNameEnum,
};
use bollard::query_parameters::{DownloadFromContainerOptionsBuilder, ListContainersOptionsBuilder};
use futures_util::StreamExt;

use super::client::{CallError, Client};
use super::record::Record;
use super::{bootstrap, label};
use crate::engine::NOT_DURABLE;
use crate::engine::provision::SUPERUSER;
use crate::instance::{EngineKind, Image, Instance, InstanceId, InstanceSpec, Lifetime, Owner, Password, Port, Status};

/// How many processes and threads an instance may have: PostgreSQL's 100 connections and its background workers, and
/// as many again.
const PIDS_MAX: i64 = 256;
/// Bytes of `/dev/shm`, where PostgreSQL keeps what parallel queries share. Docker's own 64 MiB are too few for it.
const SHM_BYTES: i64 = 128 << 20;
/// What the image's entrypoint needs to prepare the data directory as root and to become the user `postgres`.
const CAPABILITIES: [&str; 5] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"];
/// The size that one instance's log may reach; older lines go.
const LOG_SIZE_MAX: &str = "10m";
/// Bytes of the empty file systems that cover the image's volumes.
const COVER_BYTES: i64 = 64 << 10;
/// The data directory: in the container's own layer, which dies with it whoever removes it, so outside of every volume
/// that an image might declare.
const DATA_DIRECTORY: &str = "/dev-postgres-mcp/data";
/// Whom the server runs as in images that are like the official one.
const SERVER_USER: &str = "postgres";
/// The variable that an image's `initdb` takes arguments from.
const INITDB_ARGUMENTS: &str = "POSTGRES_INITDB_ARGS";
/// PostgreSQL's port inside.
const CONTAINER_PORT: &str = "5432/tcp";
/// The variable that keeps the password for whoever may inspect the container. `POSTGRES_PASSWORD` is a verifier.
const PASSWORD_VARIABLE: &str = "DEV_POSTGRES_MCP_PASSWORD";
/// The last major version whose `initdb` cuts a password file's line at 99 bytes, which a SCRAM verifier exceeds.
const LAST_SHORT_PASSWORD_MAJOR: u32 = 13;

/// The container's name.
pub(super) fn name(id: InstanceId) -> String {
    format!("mcp-postgres-{id}")
}

/// The name of a container that waits to become an instance. Docker renames one at once or not at all, so the name tells
/// which it is.
pub(super) fn waiting_name(id: InstanceId) -> String {
    format!("mcp-postgres-pool-{id}")
}

/// Whether the container still waits to become the instance of its label.
pub(super) fn is_waiting(container: &ContainerSummary) -> bool {
    is_called(container, waiting_name)
}

/// Whether the container is called as we call the instance of its label.
pub(super) fn has_its_name(container: &ContainerSummary) -> bool {
    is_called(container, name)
}

fn is_called(container: &ContainerSummary, name: fn(InstanceId) -> String) -> bool {
    container.labels.as_ref().and_then(id).is_some_and(|id| {
        let name = name(id);
        let mut names = container.names.iter().flatten();
        names.any(|known| known.trim_start_matches('/') == name)
    })
}

/// Whose a container is, and what it is when it is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marks<'a> {
    pub(super) owner: &'a Owner,
    /// `None` for one that waits to become an instance.
    pub(super) created_at: Option<SystemTime>,
}

/// What an image says of itself that matters here.
#[derive(Debug, Default)]
pub(super) struct ImageFacts {
    /// Its digest.
    pub(super) id: String,
    /// What it starts its command with.
    entrypoint: Vec<String>,
    /// What its `initdb` is told.
    initdb_arguments: Option<String>,
    /// The folders that it declares as volumes.
    volumes: Vec<String>,
    /// What it runs.
    command: Vec<String>,
    /// PostgreSQL's major version, from the variable `PG_MAJOR` that PostgreSQL images have.
    major: Option<u32>,
}

impl From<ImageInspect> for ImageFacts {
    fn from(image: ImageInspect) -> Self {
        let config = image.config.unwrap_or_default();
        let major = variable(config.env.as_deref(), "PG_MAJOR").and_then(|major| major.parse().ok());
        let initdb_arguments = variable(config.env.as_deref(), INITDB_ARGUMENTS).map(str::to_owned);
        Self {
            id: image.id.unwrap_or_default(),
            entrypoint: config.entrypoint.unwrap_or_default(),
            initdb_arguments,
            volumes: config.volumes.unwrap_or_default(),
            command: config.cmd.unwrap_or_default(),
            major,
        }
    }
}

impl ImageFacts {
    /// Whether it does at its start what the official image does, and so may be started without that. A version whose
    /// passwords are MD5 hashes may not: there the hash, which every instance would have of the template, opens the others
    /// while they start.
    pub(super) fn may_have_template(&self) -> bool {
        let has_scram = self.major.is_none_or(|major| major > LAST_SHORT_PASSWORD_MAJOR);
        has_scram && self.is_standard()
    }

    fn is_standard(&self) -> bool {
        let entrypoint = match &self.entrypoint[..] {
            [only] => only.rsplit('/').next(),
            _ => None,
        };
        entrypoint == Some("docker-entrypoint.sh") && self.runs_postgres()
    }

    fn runs_postgres(&self) -> bool {
        self.command.first().is_some_and(|program| program == "postgres")
    }
}

/// The value of a variable in the form in which Docker keeps it.
pub(super) fn variable<'a>(environment: Option<&'a [String]>, name: &str) -> Option<&'a str> {
    environment
        .into_iter()
        .flatten()
        .find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
}

/// What a template is made in: the image's own way to an initialised data directory, where nobody can reach it. It goes
/// with `maker`.
pub(super) fn template_body(
    image: &Image,
    facts: &ImageFacts,
    key: &str,
    password: &str,
    maker: Option<String>,
) -> ContainerCreateBody {
    let mut labels = HashMap::from([
        (label::TEMPLATE.to_owned(), key.to_owned()),
        (label::TEMPLATE_OF.to_owned(), image.to_string()),
    ]);
    labels.extend(maker.map(|maker| (label::OWNER.to_owned(), maker)));
    let initdb_arguments = facts.initdb_arguments.as_deref().unwrap_or_default();
    ContainerCreateBody {
        image: Some(image.to_string()),
        cmd: Some(facts.command.iter().cloned().chain(arguments(&NOT_DURABLE)).collect()),
        labels: Some(labels),
        env: Some(vec![
            format!("POSTGRES_USER={SUPERUSER}"),
            format!("POSTGRES_PASSWORD={password}"),
            format!("POSTGRES_DB={SUPERUSER}"),
            format!("{INITDB_ARGUMENTS}={initdb_arguments} --no-sync"),
            format!("PGDATA={DATA_DIRECTORY}"),
        ]),
        host_config: Some(HostConfig {
            network_mode: Some("none".into()),
            cap_drop: Some(vec!["ALL".into()]),
            cap_add: Some(CAPABILITIES.map(Into::into).into()),
            security_opt: Some(vec!["no-new-privileges".into()]),
            mounts: Some(facts.volumes.iter().map(|volume| cover(volume)).collect()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

/// What is to be created, all but the name. `template` is the image to start from instead of the one asked for.
pub(super) fn body(
    id: InstanceId,
    spec: &InstanceSpec,
    image: &ImageFacts,
    template: Option<&str>,
    network: &str,
    published: (IpAddr, Port),
    marks: Marks<'_>,
) -> ContainerCreateBody {
    let (address, port) = published;
    let memory = i64::from(spec.limits.memory_mib()) << 20;
    // From a template the server is all that starts, as its own user.
    let capabilities = match template {
        Some(_) => Vec::new(),
        None => CAPABILITIES.map(Into::into).into(),
    };
    let host_config = HostConfig {
        memory: Some(memory),
        // Memory and swap together: no swap.
        memory_swap: Some(memory),
        nano_cpus: Some(i64::from(spec.limits.cpu_millis()) * 1_000_000),
        pids_limit: Some(PIDS_MAX),
        shm_size: Some(SHM_BYTES),
        cap_drop: Some(vec!["ALL".into()]),
        cap_add: Some(capabilities),
        security_opt: Some(vec!["no-new-privileges".into()]),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".into()),
            config: Some(HashMap::from([("max-size".into(), LOG_SIZE_MAX.into())])),
        }),
        network_mode: Some(network.to_owned()),
        port_bindings: Some(HashMap::from([(
            CONTAINER_PORT.into(),
            Some(vec![PortBinding {
                host_ip: Some(address.to_string()),
                host_port: Some(port.to_string()),
            }]),
        )])),
        mounts: Some(image.volumes.iter().map(|volume| cover(volume)).collect()),
        ..HostConfig::default()
    };
    ContainerCreateBody {
        image: Some(template.map_or_else(|| spec.image.to_string(), str::to_owned)),
        user: template.map(|_| SERVER_USER.to_owned()),
        // One empty string is Docker's word for none.
        entrypoint: template.map(|_| vec![String::new()]),
        cmd: command(spec, image),
        labels: Some(labels(id, spec, port, marks)),
        env: Some(match marks.created_at {
            Some(_) => vec![
                format!("POSTGRES_USER={}", bootstrap::user(&spec.username)),
                format!("{}={}", bootstrap::USERNAME_VARIABLE, spec.username.as_str()),
                format!("POSTGRES_DB={}", spec.database.as_str()),
                format!("POSTGRES_PASSWORD={}", verifier(spec, image)),
                format!("PGDATA={DATA_DIRECTORY}"),
                format!("{PASSWORD_VARIABLE}={}", spec.password.expose()),
            ],
            // The template's own password is of no use any more, and isn't to look like the instance's.
            None => vec!["POSTGRES_PASSWORD=".to_owned(), format!("PGDATA={DATA_DIRECTORY}")],
        }),
        exposed_ports: Some(vec![CONTAINER_PORT.into()]),
        host_config: Some(host_config),
        ..ContainerCreateBody::default()
    }
}

/// What the container runs: the image's own command, with the settings that make it fast. `None` leaves it to the image,
/// as does one that isn't known to take them.
fn command(spec: &InstanceSpec, image: &ImageFacts) -> Option<Vec<String>> {
    if !image.runs_postgres() {
        return None;
    }
    let settings = if spec.durable { &[][..] } else { &NOT_DURABLE };
    Some(image.command.iter().cloned().chain(arguments(settings)).collect())
}

fn arguments(settings: &[(&str, &str)]) -> impl Iterator<Item = String> {
    settings
        .iter()
        .flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")])
}

/// A nearly empty file system in the place of a volume: Docker then makes no anonymous volume, which would outlive a
/// container that somebody removes without `-v`.
fn cover(volume: &str) -> Mount {
    Mount {
        target: Some(volume.to_owned()),
        typ: Some(MountType::TMPFS),
        tmpfs_options: Some(MountTmpfsOptions {
            size_bytes: Some(COVER_BYTES),
            ..MountTmpfsOptions::default()
        }),
        ..Mount::default()
    }
}

/// What PostgreSQL is to store for the password.
///
/// PostgreSQL stores a verifier as it is. Given the password itself, the image's entrypoint would cut it at a line feed,
/// and PostgreSQL would take one that looks like a verifier for one.
fn verifier(spec: &InstanceSpec, image: &ImageFacts) -> String {
    let password = spec.password.expose().as_bytes();
    if major(spec, image).is_some_and(|major| major <= LAST_SHORT_PASSWORD_MAJOR) {
        // These versions' own default, too.
        postgres_protocol::password::md5(password, spec.username.as_str())
    } else {
        postgres_protocol::password::scram_sha_256(password)
    }
}

fn major(spec: &InstanceSpec, image: &ImageFacts) -> Option<u32> {
    let tag = spec.image.version();
    let digits = tag.find(|c: char| !c.is_ascii_digit()).unwrap_or(tag.len());
    image.major.or_else(|| tag[..digits].parse().ok())
}

fn labels(id: InstanceId, spec: &InstanceSpec, port: Port, marks: Marks<'_>) -> HashMap<String, String> {
    let Marks { owner, created_at } = marks;
    let mut labels = vec![
        (label::ID, id.to_string()),
        (label::VERSION, spec.image.version().to_owned()),
        (label::PORT, port.to_string()),
        (label::OWNER, owner.process.clone()),
        (label::MACHINE, owner.machine.clone()),
        (label::PROCESS_ID, owner.process_id.to_string()),
    ];
    let started_at = owner
        .started_at
        .map(|at| humantime::format_rfc3339_seconds(at).to_string());
    labels.extend(started_at.map(|at| (label::STARTED_AT, at)));
    labels.extend(owner.team.as_ref().map(|team| (label::TEAM, team.to_string())));
    if let Some(created_at) = created_at {
        labels.extend([
            (label::DATABASE, spec.database.as_str().to_owned()),
            (label::USERNAME, spec.username.as_str().to_owned()),
            (
                label::CREATED_AT,
                humantime::format_rfc3339_seconds(created_at).to_string(),
            ),
        ]);
        labels.extend(owner.client.clone().map(|client| (label::CLIENT, client)));
    }
    labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Reads an instance back from its container. Labels are anybody's to write: whatever doesn't fit is an error. `record`
/// stands in for the labels that one doesn't have that was started ahead.
pub(super) fn instance(
    container_id: &str,
    labels: &HashMap<String, String>,
    record: Option<&Record>,
    status: Status,
    lifetime: Lifetime,
    host: &str,
) -> Result<Instance, String> {
    let text = |key: &str| labels.get(key).ok_or_else(|| format!("it has no label {key}"));
    let wrong = |key: &str, error: &dyn std::fmt::Display| format!("its label {key} {error}");
    let (database, username, created_at) = match record {
        Some(record) => (record.database.clone(), record.username.clone(), record.created_at),
        None => (
            text(label::DATABASE)?
                .parse()
                .map_err(|error| wrong(label::DATABASE, &error))?,
            text(label::USERNAME)?
                .parse()
                .map_err(|error| wrong(label::USERNAME, &error))?,
            humantime::parse_rfc3339(text(label::CREATED_AT)?)
                .map_err(|error| wrong(label::CREATED_AT, &format_args!("is no time: {error}")))?,
        ),
    };
    Ok(Instance {
        id: text(label::ID)?.parse().map_err(|error| wrong(label::ID, &error))?,
        engine: EngineKind::Docker,
        container_id: container_id.to_owned(),
        host: host.to_owned(),
        port: text(label::PORT)?.parse().map_err(|error| wrong(label::PORT, &error))?,
        version: version(labels)?,
        database,
        username,
        status,
        created_at,
        owner: owner(labels, record),
        lifetime,
    })
}

/// The id that a container's label gives it; `None` for what is no id, or written otherwise than we write it: no look-up
/// by id would find that.
pub(super) fn id(labels: &HashMap<String, String>) -> Option<InstanceId> {
    let text = labels.get(label::ID)?;
    let id: InstanceId = text.parse().ok()?;
    (id.to_string() == *text).then_some(id)
}

/// What can still be read of a container that makes no sense as an instance.
pub(super) fn legible(
    id: InstanceId,
    container_id: &str,
    labels: &HashMap<String, String>,
    status: Status,
    lifetime: Lifetime,
    host: &str,
) -> Instance {
    fn read<T: FromStr>(labels: &HashMap<String, String>, key: &str) -> Option<T> {
        labels.get(key)?.parse().ok()
    }
    let unknown = Instance::unknown(id, EngineKind::Docker);
    let created_at = labels.get(label::CREATED_AT);
    Instance {
        container_id: container_id.to_owned(),
        host: host.to_owned(),
        port: read(labels, label::PORT).unwrap_or(unknown.port),
        version: version(labels).unwrap_or(unknown.version),
        database: read(labels, label::DATABASE).unwrap_or(unknown.database),
        username: read(labels, label::USERNAME).unwrap_or(unknown.username),
        status,
        created_at: created_at
            .and_then(|text| humantime::parse_rfc3339(text).ok())
            .unwrap_or(unknown.created_at),
        owner: owner(labels, None),
        lifetime,
        ..unknown
    }
}

fn version(labels: &HashMap<String, String>) -> Result<String, String> {
    let tag = labels
        .get(label::VERSION)
        .ok_or_else(|| format!("it has no label {}", label::VERSION))?;
    // The repository is of no matter here.
    Image::new("postgres", tag)
        .map(|image| image.version().to_owned())
        .map_err(|error| format!("its label {} {error}", label::VERSION))
}

/// Who made it; `None` where the labels don't say.
fn owner(labels: &HashMap<String, String>, record: Option<&Record>) -> Option<Owner> {
    let text = |key: &str| labels.get(key).cloned();
    Some(Owner {
        process: text(label::OWNER)?,
        machine: text(label::MACHINE)?,
        process_id: text(label::PROCESS_ID)?.parse().ok()?,
        started_at: text(label::STARTED_AT).and_then(|at| humantime::parse_rfc3339(&at).ok()),
        team: text(label::TEAM).and_then(|team| team.parse().ok()),
        client: match record {
            Some(record) => record.client.clone(),
            None => text(label::CLIENT),
        },
    })
}

/// The password that a container keeps.
pub(super) fn password(env: &[String]) -> Result<Password, String> {
    env.iter()
        .find_map(|entry| entry.strip_prefix(PASSWORD_VARIABLE)?.strip_prefix('='))
        .ok_or_else(|| format!("it has no variable {PASSWORD_VARIABLE}"))
        .and_then(|text| Password::new(text).map_err(|error| format!("its password {error}")))
}

/// What an inspected container's state means.
pub(super) fn status(state: Option<ContainerStateStatusEnum>) -> Status {
    use ContainerStateStatusEnum as State;
    match state {
        Some(State::CREATED) => Status::Created,
        Some(State::RUNNING | State::STOPPING) => Status::Running,
        Some(State::PAUSED) => Status::Paused,
        // One that Docker restarts is between two runs.
        Some(State::EXITED | State::DEAD | State::RESTARTING | State::REMOVING | State::EMPTY) | None => {
            Status::Stopped
        }
    }
}

/// What a listed container's state means.
pub(super) fn summary_status(state: Option<ContainerSummaryStateEnum>) -> Status {
    use ContainerSummaryStateEnum as State;
    match state {
        Some(State::CREATED) => Status::Created,
        Some(State::RUNNING | State::STOPPING) => Status::Running,
        Some(State::PAUSED) => Status::Paused,
        // One that Docker restarts is between two runs.
        Some(State::EXITED | State::DEAD | State::RESTARTING | State::REMOVING | State::EMPTY) | None => {
            Status::Stopped
        }
    }
}

/// Every container with our label, running or not; only those of one instance if `id` is given.
pub(super) async fn list(client: &Client, id: Option<InstanceId>) -> Result<Vec<ContainerSummary>, CallError> {
    let label = match id {
        Some(id) => format!("{}={id}", label::ID),
        None => label::ID.to_owned(),
    };
    let filters = HashMap::from([("label", vec![label])]);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    client
        .call("listing instances", |docker| async move {
            docker.list_containers(Some(options)).await
        })
        .await
}

/// A file or folder of a container, running or not, as an archive; of one that is longer than `bytes_max`, the beginning.
pub(super) async fn download(
    client: &Client,
    verb: &'static str,
    container: &str,
    path: &str,
    bytes_max: usize,
) -> Result<Vec<u8>, CallError> {
    let options = DownloadFromContainerOptionsBuilder::new().path(path).build();
    client
        .call(verb, |docker| async move {
            let mut archive = Vec::new();
            let mut stream = std::pin::pin!(docker.download_from_container(container, Some(options)));
            while let Some(part) = stream.next().await {
                archive.extend_from_slice(&part?);
                if archive.len() > bytes_max {
                    break;
                }
            }
            Ok(archive)
        })
        .await
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::{Duration, UNIX_EPOCH};

    use bollard::models::ImageConfig;

    use super::*;
    use crate::instance::{Image, Limits};

    fn spec(version: &str) -> InstanceSpec {
        InstanceSpec {
            image: Image::new("postgres", version).expect("an image"),
            database: "my-db \"x\"".parse().expect("a name"),
            username: "us er".parse().expect("a name"),
            password: Password::new("planted\nsecret").expect("a password"),
            limits: Limits::new(512, 1500).expect("limits"),
            durable: false,
            ttl: None,
        }
    }

    fn facts(volumes: &[&str], env: &[&str]) -> ImageFacts {
        let text = |words: &[&str]| Some(words.iter().map(ToString::to_string).collect());
        let config = ImageConfig {
            volumes: text(volumes),
            env: text(env),
            ..ImageConfig::default()
        };
        ImageInspect {
            config: Some(config),
            ..ImageInspect::default()
        }
        .into()
    }

    fn owner() -> Owner {
        Owner {
            process: "scope.process".into(),
            machine: "laptop".into(),
            process_id: 4711,
            started_at: Some(UNIX_EPOCH + Duration::from_secs(1_794_000_007)),
            team: Some("payments".parse().expect("a name")),
            client: Some("claude-code".into()),
        }
    }

    fn described(version: &str, facts: &ImageFacts) -> ContainerCreateBody {
        let port = Port::try_from(15432).expect("a port");
        let created_at = UNIX_EPOCH + Duration::from_secs(1_795_000_000);
        let published = (Ipv4Addr::LOCALHOST.into(), port);
        body(
            InstanceId::random(),
            &spec(version),
            facts,
            None,
            "net",
            published,
            Marks {
                owner: &owner(),
                created_at: Some(created_at),
            },
        )
    }

    fn variable<'a>(body: &'a ContainerCreateBody, name: &str) -> &'a str {
        let env = body.env.as_ref().expect("an environment");
        env.iter()
            .find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
            .expect("the variable")
    }

    #[test]
    fn what_is_described_is_read_back_whole() {
        let body = described("17", &facts(&[], &["PG_MAJOR=17"]));
        let labels = body.labels.clone().expect("labels");
        let read = instance("c", &labels, None, Status::Running, Lifetime::Session, "127.0.0.1").expect("an instance");
        assert_eq!(read.id.to_string(), labels[label::ID]);
        assert_eq!(read.database.as_str(), "my-db \"x\"");
        assert_eq!(read.username.as_str(), "us er");
        assert_eq!(read.version, "17");
        assert_eq!(read.port.get(), 15432);
        assert_eq!(read.owner, Some(owner()));
        assert_eq!(read.created_at, UNIX_EPOCH + Duration::from_secs(1_795_000_000));
        let password = password(&body.env.expect("an environment")).expect("a password");
        assert_eq!(password.expose(), "planted\nsecret");
    }

    #[test]
    fn no_label_has_the_password() {
        let body = described("17", &facts(&[], &[]));
        assert!(
            body.labels
                .expect("labels")
                .values()
                .all(|value| !value.contains("planted"))
        );
    }

    #[test]
    fn every_volume_of_the_image_is_covered_and_none_has_the_data() {
        for volume in ["/var/lib/postgresql/data", "/var/lib/postgresql"] {
            let body = described("18", &facts(&[volume, "/other"], &[]));
            let mounts = body.host_config.clone().and_then(|host| host.mounts).expect("mounts");
            let targets: Vec<_> = mounts.iter().filter_map(|mount| mount.target.as_deref()).collect();
            assert_eq!(targets, [volume, "/other"]);
            assert!(mounts.iter().all(|mount| mount.typ == Some(MountType::TMPFS)));
            assert!(!variable(&body, "PGDATA").starts_with(volume));
        }
    }

    #[test]
    fn postgresql_is_given_a_verifier_that_its_version_understands() {
        for (tag, env, verifier) in [
            ("17", &["PG_MAJOR=17"][..], "SCRAM-SHA-256$4096:"),
            ("14", &[], "SCRAM-SHA-256$4096:"),
            ("13", &[], "md5"),
            ("13.4-alpine", &[], "md5"),
            // The image knows better than its tag.
            ("latest", &["PATH=/", "PG_MAJOR=12"], "md5"),
            ("13", &["PG_MAJOR=16"], "SCRAM-SHA-256$4096:"),
            ("latest", &[], "SCRAM-SHA-256$4096:"),
        ] {
            let body = described(tag, &facts(&[], env));
            let given = variable(&body, "POSTGRES_PASSWORD");
            assert!(given.starts_with(verifier), "{tag} {env:?}: {given}");
            // What `initdb` of 13 and before cuts off.
            assert!(verifier != "md5" || given.len() < 99);
        }
    }

    #[test]
    fn labels_that_make_no_sense_are_named() {
        let sound = described("17", &facts(&[], &[])).labels.expect("labels");
        for (key, value) in [
            (label::ID, "x"),
            (label::PORT, "0"),
            (label::VERSION, "17\u{1b}[2J"),
            (label::DATABASE, ""),
            (label::USERNAME, "pg_x"),
            (label::CREATED_AT, "yesterday"),
        ] {
            let mut labels = sound.clone();
            labels.insert(key.into(), value.into());
            let wrong = instance("c", &labels, None, Status::Running, Lifetime::Session, "h").expect_err(key);
            assert!(wrong.starts_with(&format!("its label {key} ")), "{wrong}");
            labels.remove(key);
            let missing = instance("c", &labels, None, Status::Running, Lifetime::Session, "h").expect_err(key);
            assert_eq!(missing, format!("it has no label {key}"));
        }
    }

    #[test]
    fn of_a_damaged_instance_all_is_told_that_makes_sense() {
        let sound = described("17", &facts(&[], &[])).labels.expect("labels");
        let id = id(&sound).expect("an id");
        let of =
            |labels: &HashMap<String, String>| legible(id, "c", labels, Status::Paused, Lifetime::Session, "127.0.0.1");
        let whole = instance("c", &sound, None, Status::Paused, Lifetime::Session, "127.0.0.1").expect("an instance");
        assert_eq!(of(&sound), whole);
        for key in [
            label::PORT,
            label::VERSION,
            label::DATABASE,
            label::USERNAME,
            label::CREATED_AT,
        ] {
            let mut labels = sound.clone();
            labels.insert(key.into(), String::new());
            let told = of(&labels);
            assert_eq!(
                (told.id, told.owner, told.lifetime),
                (id, Some(owner()), Lifetime::Session),
                "{key}"
            );
        }
        let bare = of(&HashMap::from([(label::ID.to_owned(), id.to_string())]));
        let unknown = Instance::unknown(id, EngineKind::Docker);
        assert_eq!(
            (bare.port, bare.version, bare.owner),
            (unknown.port, unknown.version, None)
        );
    }

    #[test]
    fn an_id_is_taken_only_as_we_write_it() {
        for (text, is_one) in [
            ("2f1c6f0e-6f0a-4d0b-9a55-0d1c7a3b9e21", true),
            ("2F1C6F0E-6F0A-4D0B-9A55-0D1C7A3B9E21", false),
            ("2f1c6f0e6f0a4d0b9a550d1c7a3b9e21", false),
            ("2f1c6f0e-6f0a-4d0b-9a55-0d1c7a3b9e21 ", false),
            ("", false),
        ] {
            let labels = HashMap::from([(label::ID.to_owned(), text.to_owned())]);
            assert_eq!(id(&labels).is_some(), is_one, "{text:?}");
        }
        assert_eq!(id(&HashMap::new()), None);
    }

    #[test]
    fn a_password_that_is_missing_or_none_is_said_so() {
        assert!(password(&["PGDATA=/x".into()]).is_err());
        assert!(password(&["DEV_POSTGRES_MCP_PASSWORD=".into()]).is_err());
        assert!(password(&["DEV_POSTGRES_MCP_PASSWORD_2=x".into()]).is_err());
    }

    #[test]
    fn every_state_of_a_container_has_a_status() {
        use ContainerStateStatusEnum as State;
        for (state, expected) in [
            (State::CREATED, Status::Created),
            (State::RUNNING, Status::Running),
            (State::RESTARTING, Status::Stopped),
            (State::PAUSED, Status::Paused),
            (State::EXITED, Status::Stopped),
            (State::DEAD, Status::Stopped),
            (State::REMOVING, Status::Stopped),
        ] {
            assert_eq!(status(Some(state)), expected);
            let listed = serde_json::from_value(serde_json::json!(state)).expect("a listed state");
            assert_eq!(summary_status(Some(listed)), expected);
        }
    }
}
