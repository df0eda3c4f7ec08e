//! An HTTP server for one page: `GET /metrics`.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Access;
use crate::status::{Classify, Status};

/// Time for a whole request: it comes in one piece from whoever means to ask.
const REQUEST: Duration = Duration::from_secs(1);
/// Time for the whole answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Connections that are served side by side; more wait.
const AT_ONCE: usize = 8;
/// Most bytes of a request. Prometheus sends a few hundred.
const REQUEST_BYTES: usize = 8 << 10;
/// How long the server rests where nobody asks; also how long its end may take.
const REST: Duration = Duration::from_millis(50);
/// Type of the page.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetricsError {
    /// The address is none, or cannot be had.
    #[error(
        "metrics cannot be served at {address:?}: expected an address in digits and a port that is free, such \
         as 127.0.0.1:9090 or [::1]:9090, or port 0 for any"
    )]
    Address {
        /// What was asked for.
        address: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// There is no thread for it.
    #[error("metrics cannot be served: no thread")]
    Thread(#[source] io::Error),
}

impl Classify for MetricsError {
    fn status(&self) -> Status {
        match self {
            Self::Address { .. } => Status::InvalidArgument,
            Self::Thread(_) => Status::OutOfMemory,
        }
    }
}

/// Serves the figures of a pool to Prometheus until it is dropped. It does not keep the pool open, and tells
/// whoever asks once it is closed (503). A few connections are served side by side, so that one who does not ask
/// holds nobody up.
///
/// There is neither encryption nor a password: bind it to an address that only those reach who may read.
#[derive(Debug)]
pub struct MetricsServer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    process: u32,
}

impl MetricsServer {
    /// Starts at an address such as `127.0.0.1:9090`; port 0 is any that is free. Names are not looked up.
    ///
    /// # Errors
    /// [`MetricsError`].
    pub fn start(access: &Arc<Access>, address: &str) -> Result<Self, MetricsError> {
        let fail = |source| MetricsError::Address { address: address.to_owned(), source };
        let wanted: Result<SocketAddr, _> = address.parse();
        let wanted =
            wanted.map_err(|error| fail(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let listener = TcpListener::bind(wanted).map_err(fail)?;
        listener.set_nonblocking(true).map_err(fail)?;
        let bound = listener.local_addr().map_err(fail)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (access, stopped) = (Arc::downgrade(access), Arc::clone(&stop));
        let thread = std::thread::Builder::new().name("gcos-metrics".to_owned());
        let thread = thread.spawn(move || serve(&listener, &access, &stopped));
        let thread = Some(thread.map_err(MetricsError::Thread)?);
        Ok(Self { address: bound, stop, thread, process: std::process::id() })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // In a child process the thread does not exist.
        if self.process == std::process::id()
            && self.thread.take().is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the thread that serves metrics panicked");
        }
    }
}

fn serve(listener: &TcpListener, access: &Weak<Access>, stop: &AtomicBool) {
    let serving = AtomicUsize::new(0);
    // Ends when those who are served have been, or have seen `stop`.
    std::thread::scope(|threads| {
        while !stop.load(Ordering::Acquire) {
            if serving.load(Ordering::Acquire) >= AT_ONCE {
                std::thread::sleep(REST);
                continue;
            }
            match listener.accept() {
                Ok((stream, peer)) => {
                    serving.fetch_add(1, Ordering::AcqRel);
                    let serving = &serving;
                    let one = move || {
                        let served = Served(serving);
                        if let Err(error) = answer(stream, access, stop) {
                            tracing::debug!(%peer, %error, "a request for metrics was not answered");
                        }
                        drop(served);
                    };
                    let thread = std::thread::Builder::new().name("gcos-metrics".to_owned());
                    if let Err(error) = thread.spawn_scoped(threads, one) {
                        serving.fetch_sub(1, Ordering::AcqRel);
                        tracing::debug!(%peer, %error, "no thread for a request for metrics");
                    }
                }
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        tracing::debug!(%error, "no connection for metrics");
                    }
                    std::thread::sleep(REST);
                }
            }
        }
    });
}

/// Counts a connection out, also where its thread panics.
struct Served<'a>(&'a AtomicUsize);

impl Drop for Served<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn answer(mut stream: TcpStream, access: &Weak<Access>, stop: &AtomicBool) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let end = Instant::now() + REQUEST;
    let request = request(&mut stream, end, stop)?;
    let end = Instant::now() + ANSWER;
    let (status, kind, page) = match page(&request, access) {
        Ok(page) => ("200 OK", TEXT, page),
        Err((status, text)) => (status, "text/plain; charset=utf-8", format!("{text}\n")),
    };
    let body = if request.starts_with(b"HEAD ") { "" } else { page.as_str() };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        page.len()
    );
    write_all(&mut stream, head.as_bytes(), end, stop)?;
    write_all(&mut stream, body.as_bytes(), end, stop)?;
    stream.shutdown(std::net::Shutdown::Write)
}

/// What to answer with, or which status and why.
fn page(request: &[u8], access: &Weak<Access>) -> Result<String, (&'static str, &'static str)> {
    let line = request.split(|&byte| byte == b'\r' || byte == b'\n').next().unwrap_or_default();
    let mut words = line.split(|&byte| byte == b' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    if !version.is_some_and(|version| version.starts_with(b"HTTP/1.")) || words.next().is_some() {
        return Err(("400 Bad Request", "expected a request of HTTP/1.1"));
    }
    if !matches!(method, Some(b"GET" | b"HEAD")) {
        return Err(("405 Method Not Allowed", "expected GET"));
    }
    let path = target.unwrap_or_default().split(|&byte| byte == b'?').next();
    if path != Some(b"/metrics") {
        return Err(("404 Not Found", "there is /metrics and nothing else"));
    }
    match access.upgrade() {
        Some(access) => Ok(access.metrics_text()),
        None => Err(("503 Service Unavailable", "the pool is closed")),
    }
}

/// Reads up to the end of the head. A body is never read.
fn request(stream: &mut TcpStream, end: Instant, stop: &AtomicBool) -> io::Result<Vec<u8>> {
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while !request.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        if request.len() >= REQUEST_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the request has no end"));
        }
        stream.set_read_timeout(Some(left(end, stop)?))?;
        match stream.read(&mut piece) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => request.extend_from_slice(piece.get(..count).unwrap_or_default()),
            Err(error) if is_over(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(request)
}

fn write_all(
    stream: &mut TcpStream,
    mut bytes: &[u8],
    end: Instant,
    stop: &AtomicBool,
) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(end, stop)?))?;
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if is_over(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether a call has only waited long enough to look around.
fn is_over(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

/// How long a call may wait before it looks around.
fn left(end: Instant, stop: &AtomicBool) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() || stop.load(Ordering::Acquire) {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left.min(REST))
}
