//! Servers that speak S3, as processes of our own: started on a directory, killed, started again.
//!
//! [`Forgetful`] stands before one of them and has it behave as a store that ignores `If-None-Match`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::broker::Environment;
use crate::ports::free_address;
use crate::tools::Tools;

/// The one bucket of each server.
const BUCKET: &str = "messages";
const USER: &str = "posthaste";
const SECRET: &str = "posthaste-secret";
const READY_SECONDS_MAX: u64 = 30;
/// An answer to a question of our own comes at once, or not at all.
const ANSWER_SECONDS_MAX: u64 = 5;
/// Of the requests that pass [`Forgetful`].
const BODY_BYTES_MAX: u64 = 64 << 20;

/// Servers that the broker is tested with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Product {
    Versitygw,
    Minio,
}

impl Product {
    /// The Go package of the server's program, and the version that is tested.
    fn package(self) -> (&'static str, &'static str) {
        match self {
            Self::Versitygw => ("github.com/versity/versitygw/cmd/versitygw", "v1.8.0"),
            Self::Minio => ("github.com/minio/minio", "v0.0.0-20260212201848-7aac2a2c5b7c"),
        }
    }

    /// Builds the server unless that was done; returns the path of its program.
    pub fn install(self, tools: &Tools) -> Result<PathBuf> {
        let (package, version) = self.package();
        tools.install_go_program(package, version)
    }

    fn command(self, program: &Path, address: SocketAddr, directory: &Path) -> Command {
        let mut command = Command::new(program);
        match self {
            Self::Versitygw => {
                command.env("ROOT_ACCESS_KEY", USER).env("ROOT_SECRET_KEY", SECRET);
                command.arg("--port").arg(address.to_string()).arg("posix").arg(directory);
            }
            Self::Minio => {
                command.env("MINIO_ROOT_USER", USER).env("MINIO_ROOT_PASSWORD", SECRET);
                // It asks for its newest version otherwise.
                command.env("MINIO_UPDATE", "off").env("MINIO_BROWSER", "off");
                command.args(["server", "--quiet", "--address", &address.to_string()]).arg(directory);
            }
        }
        command
    }

    /// A path whose answer says whether requests are served, and that answer.
    fn readiness(self) -> (&'static str, u16) {
        match self {
            // Refused, since it is not signed.
            Self::Versitygw => ("/", 403),
            Self::Minio => ("/minio/health/ready", 200),
        }
    }
}

impl FromStr for Product {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "versitygw" => Ok(Self::Versitygw),
            "minio" => Ok(Self::Minio),
            other => bail!("unknown server {other}; known are versitygw and minio"),
        }
    }
}

/// A running server. Dropping it kills the process.
pub struct Server {
    product: Product,
    program: PathBuf,
    directory: PathBuf,
    log: PathBuf,
    address: SocketAddr,
    child: Child,
}

impl Server {
    /// Starts a server in `folder` with one empty bucket, on a free port of the loopback address.
    pub fn start(product: Product, program: &Path, folder: &Path) -> Result<Self> {
        let directory = folder.join("server");
        // To both products a directory is a bucket.
        fs::create_dir_all(directory.join(BUCKET))?;
        let log = folder.join("server.log");
        let address = free_address()?;
        let child = launch(product, program, address, &directory, &log)?;
        let server = Self { product, program: program.to_owned(), directory, log, address, child };
        server.wait_ready()?;
        Ok(server)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the server keeps the bucket's objects in: a file or a directory for each, named by its key.
    pub fn bucket(&self) -> PathBuf {
        self.directory.join(BUCKET)
    }

    /// Ends the process with SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the server had ended before it was killed: {status}; see {}", self.log.display());
        }
        self.child.kill().context("kill the server")?;
        self.child.wait().context("wait for the killed server")?;
        Ok(())
    }

    /// Starts the killed server again on the same directory and port.
    pub fn restart(&mut self) -> Result<()> {
        self.child = launch(self.product, &self.program, self.address, &self.directory, &self.log)?;
        self.wait_ready()
    }

    fn wait_ready(&self) -> Result<()> {
        let (path, expected) = self.product.readiness();
        let since = Instant::now();
        loop {
            let answer = ask(self.address, path);
            match &answer {
                Ok(status) if *status == expected => return Ok(()),
                _ if since.elapsed() > Duration::from_secs(READY_SECONDS_MAX) => {
                    bail!("the server is not ready: {answer:?}; see {}", self.log.display())
                }
                _ => thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address of `prefix` in the bucket.
pub fn data(prefix: &str) -> PathBuf {
    PathBuf::from(format!("s3://{BUCKET}/{prefix}"))
}

/// What a broker has to be told to reach the server at `address`.
pub fn environment(address: SocketAddr) -> Environment {
    let variables = [
        ("AWS_ENDPOINT_URL", format!("http://{address}")),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", USER.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
    ];
    variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn launch(
    product: Product,
    program: &Path,
    address: SocketAddr,
    directory: &Path,
    log: &Path,
) -> Result<Child> {
    let log: File = OpenOptions::new().create(true).append(true).open(log)?;
    let mut command = product.command(program, address, directory);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().with_context(|| format!("start {}", program.display()))
}

/// The status that `GET path` answers.
fn ask(address: SocketAddr, path: &str) -> Result<u16> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(ANSWER_SECONDS_MAX)))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let status = line.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    status.with_context(|| format!("no status in: {line}"))
}

/// Stands before a server and removes the object of every conditional put before the server sees the request.
///
/// The header itself cannot be taken away, since it is signed.
pub struct Forgetful {
    address: SocketAddr,
}

impl Forgetful {
    /// Serves until the process ends.
    pub fn before(server: &Server) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (behind, objects) = (server.address, server.directory.clone());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let objects = objects.clone();
                // A connection that fails is the client's to notice.
                thread::spawn(move || pass(&client, behind, &objects));
            }
        });
        Ok(Self { address })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Passes the requests of one connection on, and the answers back as they come.
fn pass(client: &TcpStream, behind: SocketAddr, objects: &Path) -> Result<()> {
    let mut server = TcpStream::connect(behind)?;
    let (mut answers, mut back) = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut answers, &mut back);
        let _ = back.shutdown(Shutdown::Both);
    });
    let mut requests = BufReader::new(client);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if requests.read_line(&mut head)? == 0 {
                server.shutdown(Shutdown::Write)?;
                return Ok(());
            }
        }
        let bytes = header(&head, "content-length").map_or(Ok(0), str::parse::<u64>)?;
        ensure!(bytes <= BODY_BYTES_MAX, "a body of {bytes} bytes");
        let mut body = Vec::new();
        requests.by_ref().take(bytes).read_to_end(&mut body)?;
        let path = head.split_whitespace().nth(1).unwrap_or_default();
        if head.starts_with("PUT ") && header(&head, "if-none-match").is_some() {
            forget(&objects.join(path.trim_start_matches('/')))?;
        }
        server.write_all(head.as_bytes())?;
        server.write_all(&body)?;
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

fn forget(object: &Path) -> io::Result<()> {
    let removed = if object.is_dir() { fs::remove_dir_all(object) } else { fs::remove_file(object) };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
