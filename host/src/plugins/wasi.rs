//! WASI for guests whose language's runtime imports it, closed: it tells nothing of this machine and reaches nothing on it.
//!
//! No files, no network, no environment, no arguments, and nothing on standard input. What a guest writes to standard output
//! and standard error goes to the log. The time of day stands still at 1970 without the grant `clock`; the monotonic clock
//! and randomness are as everywhere. To wait costs time, but none of that for computing.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::io::AsyncWrite;
use wasmtime::component::{Component, HasSelf, Linker, Resource, ResourceTable};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{DynPollable, OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi::{HostWallClock, WasiCtx, WasiCtxView, WasiView, async_trait};
use wasmtime_wasi_io::bindings::wasi::io::poll;
use wasmtime_wasi_io::bytes::Bytes;

use super::guest::Guest;
use super::journal::{Journal, Stream};

/// How many things of the host a guest may hold at once: streams, errors, and what can be waited for.
const RESOURCES_MAX: usize = 1000;
/// The most randomness that one call gives, in bytes. Runtimes ask for less.
const RANDOM_BYTES_MAX: u64 = 64 << 10;
/// The most that one call writes to a stream, in bytes.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// What one call has of WASI.
pub(super) struct Wasi {
    context: WasiCtx,
    resources: ResourceTable,
}

impl Wasi {
    /// Standard output and standard error go to `journal`.
    pub(super) fn new(journal: &Journal, has_clock: bool) -> Self {
        let mut context = WasiCtx::builder();
        context
            .stdout(Standard(Arc::new(journal.stream("stdout"))))
            .stderr(Standard(Arc::new(journal.stream("stderr"))))
            .max_random_size(RANDOM_BYTES_MAX)
            // Sockets could connect to nothing, but each would be one of the host's.
            .allow_tcp(false)
            .allow_udp(false);
        if !has_clock {
            context.wall_clock(Stopped);
        }
        let mut resources = ResourceTable::new();
        resources.set_max_capacity(RESOURCES_MAX);
        Self {
            context: context.build(),
            resources,
        }
    }
}

/// Links WASI, if the component imports any of it.
pub(super) fn link(linker: &mut Linker<Guest>, component: &Component) -> wasmtime::Result<()> {
    let component_type = component.component_type();
    let mut imports = component_type.imports(component.engine());
    if !imports.any(|(name, _)| name.starts_with("wasi:")) {
        return Ok(());
    }
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    linker.allow_shadowing(true);
    let shadowed = poll::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest);
    linker.allow_shadowing(false);
    shadowed
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let Wasi { context, resources } = self.wasi();
        WasiCtxView {
            ctx: context,
            table: resources,
        }
    }
}

/// As everywhere, except that what is waited for isn't taken for computing, and that a list can't be so long that to walk it
/// is work.
impl poll::Host for Guest {
    async fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        if pollables.len() > RESOURCES_MAX {
            return Err(wasmtime::Error::msg(format!(
                "waits for {} things at once, may wait for {RESOURCES_MAX}",
                pollables.len()
            )));
        }
        self.turn.end();
        let (ready, waited) = timed(poll::Host::poll(&mut self.wasi().resources, pollables)).await;
        self.make_good(waited);
        ready
    }
}

impl poll::HostPollable for Guest {
    async fn ready(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<bool> {
        poll::HostPollable::ready(&mut self.wasi().resources, pollable).await
    }

    async fn block(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        self.turn.end();
        let (ready, waited) = timed(poll::HostPollable::block(&mut self.wasi().resources, pollable)).await;
        self.make_good(waited);
        ready
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        poll::HostPollable::drop(&mut self.wasi().resources, pollable)
    }
}

/// What a future gives, and how long it kept somebody waiting: not at all if it was ready at once.
async fn timed<T>(future: impl Future<Output = T>) -> (T, Duration) {
    let mut future = pin!(future);
    match poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await {
        Poll::Ready(given) => (given, Duration::ZERO),
        Poll::Pending => {
            let begun = Instant::now();
            (future.await, begun.elapsed())
        }
    }
}

/// The time of day for who isn't granted it.
struct Stopped;

impl HostWallClock for Stopped {
    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

/// A standard stream. However often a guest asks for it, it is the same.
#[derive(Clone)]
struct Standard(Arc<Stream>);

impl IsTerminal for Standard {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Standard {
    // Of WASI 0.3, which isn't linked.
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl OutputStream for Standard {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > WRITE_BYTES_MAX {
            return Err(StreamError::trap("writes more than it was permitted to"));
        }
        self.0
            .write(&bytes)
            .map_err(|overrun| StreamError::Trap(overrun.into()))
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

#[async_trait]
impl Pollable for Standard {
    async fn ready(&mut self) {}
}
