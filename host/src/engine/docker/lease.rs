//! How long an instance stays: a file in its container, since labels can't be changed. The file is empty and its time of
//! change is when the instance ends, so that Docker can tell without opening it (1 ms, where reading a file takes 60).
//!
//! Without that file, a container goes with the process that its label names: so does one whose maker was killed before
//! anybody had been told of it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::query_parameters::{ContainerArchiveInfoOptionsBuilder, UploadToContainerOptionsBuilder};

use super::client::{CallError, Client};
use crate::engine::EngineError;
use crate::instance::Lifetime;

/// The file's name, in the root: a server that was started from a template may not write there.
const NAME: &str = "dev-postgres-mcp.lease";
/// From when on an end is none: 2100-01-01, beyond the longest time to live.
const NEVER: Duration = Duration::from_hours(24 * 47_482);

/// What a container's lease says; `None` if it has none, or has gone; the inner error if it makes no sense.
pub(super) async fn read(client: &Client, container_id: &str) -> Result<Result<Option<Lifetime>, String>, CallError> {
    let path = format!("/{NAME}");
    let options = ContainerArchiveInfoOptionsBuilder::new().path(&path).build();
    let file = client
        .call("reading the instance's lease", |docker| async move {
            docker.get_container_archive_info(container_id, Some(options)).await
        })
        .await;
    match file {
        Ok(file) => Ok(lifetime(file.modification_time.as_deref()).map(Some)),
        Err(CallError::Refused { status: 404, .. }) => Ok(Ok(None)),
        Err(error) => Err(error),
    }
}

/// Gives a container a lease, in the place of the one that it has.
pub(super) async fn write(client: &Client, container_id: &str, lifetime: Lifetime) -> Result<(), CallError> {
    let end = match lifetime {
        Lifetime::Session => return Ok(()),
        Lifetime::Until(end) => end.duration_since(UNIX_EPOCH).unwrap_or_default().min(NEVER),
        Lifetime::Unlimited => NEVER,
    };
    let archive = archive(end).map_err(|error| {
        CallError::NotSent(EngineError::Request {
            verb: "writing the instance's lease",
            reason: error.to_string(),
        })
    })?;
    let options = UploadToContainerOptionsBuilder::new().path("/").build();
    client
        .change("writing the instance's lease", |docker| async move {
            docker
                .upload_to_container(container_id, Some(options), bollard::body_full(archive.into()))
                .await
        })
        .await
}

fn archive(end: Duration) -> std::io::Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o444);
    header.set_mtime(end.as_secs());
    header.set_size(0);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, NAME, std::io::empty())?;
    archive.into_inner()
}

/// What a file's time of change means, as Docker writes it: RFC 3339, maybe with an offset from UTC.
fn lifetime(changed: Option<&str>) -> Result<Lifetime, String> {
    let end = changed
        .and_then(parse)
        .ok_or("Docker names no time of its lease that makes sense")?;
    Ok(if end < UNIX_EPOCH + NEVER {
        Lifetime::Until(end)
    } else {
        Lifetime::Unlimited
    })
}

/// RFC 3339 with an offset; `humantime` alone takes UTC only.
pub(super) fn parse(text: &str) -> Option<SystemTime> {
    if let Ok(time) = humantime::parse_rfc3339_weak(text) {
        return Some(time);
    }
    let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let offset_seconds = hours.parse::<u64>().ok()? * 3600 + minutes.parse::<u64>().ok()? * 60;
    let local = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    match offset.get(..1)? {
        "+" => local.checked_sub(Duration::from_secs(offset_seconds)),
        "-" => local.checked_add(Duration::from_secs(offset_seconds)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Option<u64> {
        parse(text).map(|time| time.duration_since(UNIX_EPOCH).expect("after 1970").as_secs())
    }

    #[test]
    fn docker_writes_times_with_and_without_an_offset() {
        assert_eq!(seconds("2030-03-17T17:46:40Z"), Some(1_900_000_000));
        assert_eq!(seconds("2030-03-17T17:46:40.123456789Z"), Some(1_900_000_000));
        assert_eq!(seconds("2030-03-17T18:46:40+01:00"), Some(1_900_000_000));
        assert_eq!(seconds("2030-03-17T14:16:40.5-03:30"), Some(1_900_000_000));
        for wrong in [
            "",
            "yesterday",
            "2030-03-17",
            "é+01:00",
            "2030-03-17T18:46:40*01:00",
            "+01:00",
        ] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_end_in_2100_is_none() {
        let of = |text| lifetime(Some(text)).expect("a lifetime");
        assert_eq!(of("2100-01-01T00:00:00Z"), Lifetime::Unlimited);
        assert!(matches!(of("2099-12-31T23:59:59Z"), Lifetime::Until(_)));
    }

    #[test]
    fn a_lease_whose_time_makes_no_sense_is_said_to_be_so() {
        for changed in [None, Some("soon"), Some("")] {
            let said = lifetime(changed).expect_err("no time");
            assert_eq!(
                said, "Docker names no time of its lease that makes sense",
                "{changed:?}"
            );
        }
    }

    #[test]
    fn a_lease_is_an_empty_file_that_nobody_may_write_to() {
        let archive = archive(Duration::from_secs(1_900_000_000)).expect("an archive");
        let mut archive = tar::Archive::new(&archive[..]);
        let entry = archive.entries().expect("entries").next().expect("one").expect("sound");
        let header = entry.header();
        assert_eq!(entry.path().expect("a path").to_str(), Some(NAME));
        assert_eq!(
            (header.size().ok(), header.mtime().ok(), header.mode().ok()),
            (Some(0), Some(1_900_000_000), Some(0o444))
        );
    }
}
