//! What an operator and a hostile peer meet: starting, stopping, refusing, and bytes that no client would send.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::broker::Broker;
use crate::programs::Protocol;
use crate::scratch::Scratch;

const MEBIBYTE: u64 = 1 << 20;
/// Anonymous memory of an idle broker on an empty directory, in bytes.
const IDLE_BYTES_MAX: u64 = 30 * MEBIBYTE;
/// How much all hostile connections together may leave behind, in bytes.
const HOSTILE_BYTES_MAX: u64 = 64 * MEBIBYTE;
/// A start that must fail has failed by then.
const REFUSAL_SECONDS_MAX: u64 = 30;
/// A connection that sent nonsense is closed by then; RabbitMQ's handshake timeout is 10 s.
const CLOSE_SECONDS_MAX: u64 = 30;
/// How often each piece of nonsense is sent.
const HOSTILE_REPEATS: usize = 20;

/// Runs all checks on `binary`; fails after all have run.
pub fn run(binary: &Path, work: &Path) -> Result<()> {
    let mut scratch = Scratch::new(work, "contract")?;
    println!("\n== contract");
    let contract = Contract { binary: binary.to_owned(), folder: scratch.path().to_owned() };
    let checks: [(&str, Check); 9] = [
        ("an idle broker is small and stops cleanly", Contract::idle_and_stop),
        ("a data directory is opened once", Contract::directory_in_use),
        ("a data directory of another version is refused", Contract::other_version),
        ("a directory that holds something else is refused", Contract::foreign_directory),
        ("a taken port is refused", Contract::taken_port),
        ("bad flags and configuration keys are refused", Contract::bad_configuration),
        ("health and metrics answer", Contract::health),
        ("hostile bytes cost bounded memory and no other connection", Contract::hostile_bytes),
        ("a kill is no damage", Contract::kill_and_start),
    ];
    let mut failed = 0;
    for (name, check) in checks {
        match check(&contract) {
            Ok(()) => println!("   ok {name}"),
            Err(error) => {
                failed += 1;
                println!("   not ok {name}: {error:#}");
            }
        }
    }
    if failed > 0 {
        scratch.keep();
        bail!("{failed} checks failed; data and logs are in {}", scratch.path().display());
    }
    Ok(())
}

type Check = fn(&Contract) -> Result<()>;

struct Contract {
    binary: PathBuf,
    folder: PathBuf,
}

impl Contract {
    fn start(&self, name: &str) -> Result<Broker> {
        Broker::start(&self.binary, &self.folder.join(name), &self.folder.join(format!("{name}.log")))
    }

    /// Starts the broker so that it must refuse; returns what it wrote to standard error.
    fn refusal(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.binary);
        command.arg("serve").args(arguments);
        // A check that fails must not leave the broker's data in the current directory.
        command.current_dir(&self.folder);
        let output = finished(command)?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "it started: {errors}");
        ensure!(output.status.code().is_some(), "it ended with {}: {errors}", output.status);
        ensure!(!errors.trim().is_empty(), "it says nothing on standard error");
        ensure!(!errors.contains("panicked"), "it panicked: {errors}");
        Ok(errors)
    }

    fn idle_and_stop(&self) -> Result<()> {
        let mut broker = self.start("idle")?;
        let memory = broker.memory()?;
        println!(
            "   # ready in {} ms, {:.1} MiB anonymous",
            broker.start_time.as_millis(),
            memory.anonymous as f64 / MEBIBYTE as f64
        );
        ensure!(memory.anonymous < IDLE_BYTES_MAX, "{} bytes of anonymous memory", memory.anonymous);
        broker.stop()?;
        broker.restart()?;
        broker.stop()
    }

    fn directory_in_use(&self) -> Result<()> {
        let mut first = self.start("shared")?;
        let data = self.folder.join("shared");
        let listen: Vec<String> =
            Protocol::ALL.iter().map(|protocol| format!("{protocol}=127.0.0.1:0")).collect();
        let mut arguments = vec!["--data", text(&data)?];
        arguments.extend(listen.iter().flat_map(|address| ["--listen", address.as_str()]));
        let errors = self.refusal(&arguments)?;
        ensure!(errors.contains("in use"), "unclear: {errors}");
        ensure!(first.exited()?.is_none(), "the first broker ended");
        first.stop()
    }

    fn other_version(&self) -> Result<()> {
        self.start("version")?.stop()?;
        let data = self.folder.join("version");
        let identity = data.join("posthaste.json");
        let found = fs::read_to_string(&identity)?;
        // Digits before its own make it a later one, whatever it is.
        let changed = found.replacen("\"format\": ", "\"format\": 999", 1);
        ensure!(changed != found, "no format version in {found}");
        fs::write(&identity, changed)?;
        let errors = self.refusal(&["--data", text(&data)?])?;
        ensure!(errors.contains("999") && errors.contains("version"), "unclear: {errors}");
        fs::write(&identity, found)?;
        self.start("version")?.stop()
    }

    fn foreign_directory(&self) -> Result<()> {
        let data = self.folder.join("foreign");
        fs::create_dir_all(&data)?;
        fs::write(data.join("holiday.txt"), "sun")?;
        let errors = self.refusal(&["--data", text(&data)?])?;
        ensure!(errors.contains("holiday.txt"), "unclear: {errors}");
        ensure!(fs::read_dir(&data)?.count() == 1, "the foreign directory was written to");
        Ok(())
    }

    fn taken_port(&self) -> Result<()> {
        let mut broker = self.start("taken")?;
        let taken = address(&broker, Protocol::Kafka)?;
        let other = self.folder.join("taken-too");
        let listen = format!("kafka={taken}");
        let free =
            ["--listen", "amqp=127.0.0.1:0", "--listen", "mqtt=127.0.0.1:0", "--listen", "http=127.0.0.1:0"];
        let errors = self.refusal(&[&["--data", text(&other)?, "--listen", &listen], &free[..]].concat())?;
        ensure!(errors.contains(&taken), "the address is not named: {errors}");
        broker.stop()
    }

    fn bad_configuration(&self) -> Result<()> {
        let data = self.folder.join("bad");
        let data = text(&data)?;
        let file = self.folder.join("bad.toml");
        let refused = |arguments: &[&str], named: &str| -> Result<()> {
            let errors = self.refusal(&[&["--data", data], arguments].concat())?;
            ensure!(errors.contains(named), "{named} is not named: {errors}");
            Ok(())
        };
        refused(&["--no-such-flag"], "--no-such-flag")?;
        refused(&["--listen", "kafka"], "kafka")?;
        refused(&["--listen", "telegraph=127.0.0.1:0"], "telegraph")?;
        refused(&["--listen", "kafka=127.0.0.1:notaport"], "notaport")?;
        refused(&["--config", "no-such-file.toml"], "no-such-file.toml")?;
        fs::write(&file, "no_such_key = 1\n")?;
        refused(&["--config", text(&file)?], "no_such_key")?;
        fs::write(&file, "listen = [\n")?;
        refused(&["--config", text(&file)?], "bad.toml")
    }

    fn health(&self) -> Result<()> {
        let mut broker = self.start("health")?;
        for path in ["/healthz", "/metrics"] {
            let answer = exchange(
                &address(&broker, Protocol::Http)?,
                format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes(),
            )?;
            let answer = String::from_utf8_lossy(&answer).into_owned();
            let status = answer.split_whitespace().nth(1).unwrap_or_default();
            ensure!(status == "200", "{path}: {}", answer.lines().next().unwrap_or("no answer"));
            if path == "/metrics" {
                ensure!(answer.contains("# TYPE "), "no metrics in the text format");
            }
        }
        broker.stop()
    }

    fn hostile_bytes(&self) -> Result<()> {
        let mut broker = self.start("hostile")?;
        let before = broker.memory()?.anonymous;
        // A conversation that has to go on, whatever the others do.
        let mut witness = TcpStream::connect(address(&broker, Protocol::Kafka)?)?;
        api_versions(&mut witness).context("before")?;
        let mut kept = Vec::new();
        for (protocol, name, bytes) in hostile() {
            for _ in 0..HOSTILE_REPEATS {
                let target = address(&broker, protocol)?;
                kept.push(
                    hostile_connection(&target, &bytes).with_context(|| format!("{protocol}: {name}"))?,
                );
            }
            if let Some(status) = broker.exited()? {
                bail!("{protocol}, {name}: the broker ended with {status}\n{}", broker.log_tail());
            }
            api_versions(&mut witness).with_context(|| format!("after {name} on {protocol}"))?;
        }
        let memory = broker.memory()?.anonymous;
        println!(
            "   # {} hostile connections, {} KiB more memory",
            kept.len(),
            memory.saturating_sub(before) / 1024
        );
        ensure!(memory < before + HOSTILE_BYTES_MAX, "memory grew from {before} to {memory} bytes");
        drop(kept);
        broker.stop()
    }

    fn kill_and_start(&self) -> Result<()> {
        let mut broker = self.start("killed")?;
        for _ in 0..5 {
            broker.kill()?;
            broker.restart()?;
        }
        broker.stop()
    }
}

/// Bytes that no client sends, by the listener that gets them.
fn hostile() -> Vec<(Protocol, &'static str, Vec<u8>)> {
    let garbage: Vec<u8> =
        (0..4096_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut cases = Vec::new();
    for protocol in Protocol::ALL {
        cases.push((protocol, "garbage", garbage.clone()));
        cases.push((protocol, "zeros", vec![0; 4096]));
        cases.push((protocol, "all ones", vec![0xff; 4096]));
        cases.push((
            protocol,
            "a request of another protocol",
            b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        ));
        cases.push((protocol, "a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()));
    }
    let amqp = |frames: &[u8]| [b"AMQP\x00\x00\x09\x01".as_slice(), frames].concat();
    cases.extend([
        (Protocol::Kafka, "a frame of 2 GiB", b"\x7f\xff\xff\xff\x00\x03\x00\x01".to_vec()),
        (Protocol::Kafka, "a frame of 100 MB that never comes", b"\x05\xf5\xe1\x00\x00\x03\x00\x01".to_vec()),
        // Metadata v1 with an array of 2^31 - 1 topics.
        (
            Protocol::Kafka,
            "an array of 2^31 entries",
            b"\x00\x00\x00\x0e\x00\x03\x00\x01\x00\x00\x00\x01\xff\xff\x7f\xff\xff\xff".to_vec(),
        ),
        (Protocol::Amqp, "a frame of 4 GiB", amqp(b"\x01\x00\x00\xff\xff\xff\xff")),
        (Protocol::Amqp, "a wrong end of frame", amqp(b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x0b\x00")),
        (Protocol::Amqp, "an unknown frame type", amqp(b"\x09\x00\x00\x00\x00\x00\x00\xce")),
        (Protocol::Mqtt, "a packet of 256 MiB", b"\x10\xff\xff\xff\x7f\x00\x04MQTT\x04\x02\x00\x3c".to_vec()),
        (Protocol::Mqtt, "a length without end", b"\x10\xff\xff\xff\xff\xff".to_vec()),
        (Protocol::Mqtt, "publish before connect", b"\x30\x05\x00\x01aXX".to_vec()),
        (
            Protocol::Http,
            "a header without end",
            [b"GET / HTTP/1.1\r\nx: ".to_vec(), vec![b'y'; 1 << 20]].concat(),
        ),
        (
            Protocol::Http,
            "a body of 2^63 bytes",
            b"POST /v1/topics HTTP/1.1\r\nHost: x\r\nContent-Length: 9223372036854775807\r\n\r\n{".to_vec(),
        ),
    ]);
    cases
}

/// Sends `bytes` and returns the connection, which the broker may have closed meanwhile.
fn hostile_connection(address: &str, bytes: &[u8]) -> Result<TcpStream> {
    let mut connection = TcpStream::connect(address)?;
    connection.set_write_timeout(Some(Duration::from_secs(CLOSE_SECONDS_MAX)))?;
    match connection.write_all(bytes) {
        // It may close before it read everything.
        Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
            Err(error.into())
        }
        _ => Ok(connection),
    }
}

/// ApiVersions v0, the shortest conversation of the three protocols; its answer has error 0.
fn api_versions(connection: &mut TcpStream) -> Result<()> {
    const REQUEST: &[u8] = b"\x00\x00\x00\x0a\x00\x12\x00\x00\x00\x00\x00\x07\xff\xff";
    connection.set_read_timeout(Some(Duration::from_secs(CLOSE_SECONDS_MAX)))?;
    connection.write_all(REQUEST)?;
    let mut length = [0; 4];
    connection.read_exact(&mut length)?;
    let mut body = vec![0; usize::try_from(u32::from_be_bytes(length))?.min(1 << 16)];
    connection.read_exact(&mut body)?;
    ensure!(body.starts_with(&[0, 0, 0, 7, 0, 0]), "unexpected answer {:?}", &body[..body.len().min(16)]);
    Ok(())
}

/// Sends `request` and reads until the other side closes.
fn exchange(address: &str, request: &[u8]) -> Result<Vec<u8>> {
    let mut connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(Duration::from_secs(CLOSE_SECONDS_MAX)))?;
    connection.write_all(request)?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    Ok(answer)
}

fn finished(mut command: Command) -> Result<Output> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let deadline = Instant::now() + Duration::from_secs(REFUSAL_SECONDS_MAX);
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
            let output = child.wait_with_output()?;
            bail!("it still runs after {REFUSAL_SECONDS_MAX} s: {}", String::from_utf8_lossy(&output.stderr));
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(child.wait_with_output()?)
}

fn address(broker: &Broker, protocol: Protocol) -> Result<String> {
    broker.addresses().get(&protocol).cloned().with_context(|| format!("no {protocol} listener"))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}
