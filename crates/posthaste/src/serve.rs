//! `posthaste serve`: recover, listen, announce, and stop in order.

use crate::{
    configuration::{File, pairs},
    entrances::{Entry, entries},
    listeners::{SPEAKERS, check_name, formats},
    reload::reload,
    sealing,
    tokens::{self, KeySource},
    users,
};
use clap::Args;
use posthaste_broker::{Anonymous, Broker, Config};
use posthaste_net::{Leave, Listener, Loops, Shared};
use std::{
    collections::{BTreeMap, HashMap},
    io::Write,
    net::SocketAddr,
    num::NonZeroUsize,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::timeout,
};
use tracing_subscriber::EnvFilter;

/// How long open connections get to end when the broker stops.
const STOP: Duration = Duration::from_secs(8);

#[derive(Args)]
pub struct Flags {
    /// The data directory, made if it is not there, or a bucket, s3://BUCKET/PREFIX [default: ./posthaste-data]
    #[arg(long, value_name = "DIR", env = "POSTHASTE_DATA")]
    data: Option<PathBuf>,
    /// The configuration file, TOML
    #[arg(long, value_name = "FILE", env = "POSTHASTE_CONFIG")]
    config: Option<PathBuf>,
    /// Where a protocol (kafka, amqp, mqtt, http) listens: HOST:PORT, port 0 for any free one, or `off`
    #[arg(long, value_name = "PROTOCOL=ADDR", env = "POSTHASTE_LISTEN", value_delimiter = ',')]
    listen: Vec<String>,
    /// What clients of a protocol are told to connect to
    #[arg(long, value_name = "PROTOCOL=HOST:PORT", env = "POSTHASTE_ADVERTISE", value_delimiter = ',')]
    advertise: Vec<String>,
    /// What to log to standard error: error, warn, info, debug, or per part such as posthaste_kafka=debug
    /// [default: info]
    #[arg(long, value_name = "FILTER", env = "POSTHASTE_LOG")]
    log: Option<String>,
    /// Listen without TLS on addresses that other machines can reach
    #[arg(long, env = "POSTHASTE_ALLOW_PLAINTEXT")]
    allow_plaintext: bool,
}

/// Everything decided: flags over environment over file over defaults.
struct Settings {
    data: PathBuf,
    log: String,
    listen: BTreeMap<String, String>,
    advertise: HashMap<String, String>,
    allow_plaintext: bool,
    entries: BTreeMap<&'static str, Entry>,
    file: File,
}

/// Runs until a signal; the exit code says whether it went well.
pub fn run(flags: &Flags) -> ExitCode {
    let result = Settings::of(flags).and_then(|settings| {
        start_log(&settings.log)?;
        raise_file_limit();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|e| format!("cannot start the runtime: {e}"))?;
        runtime.block_on(async { tokio::spawn(serve(settings)).await.map_err(|e| e.to_string())? })
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("posthaste: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Settings {
    fn of(flags: &Flags) -> Result<Settings, String> {
        let file = flags.config.as_deref().map(File::read).transpose()?.unwrap_or_default();
        let mut listen: BTreeMap<String, String> =
            SPEAKERS.iter().map(|s| (s.name.to_owned(), s.default_address.to_owned())).collect();
        listen.extend(file.listen.clone());
        listen.extend(pairs(flags.listen.iter().map(String::as_str), "--listen")?);
        let mut advertise: HashMap<String, String> = file.advertise.clone().into_iter().collect();
        advertise.extend(pairs(flags.advertise.iter().map(String::as_str), "--advertise")?);
        for name in listen.keys().chain(advertise.keys()) {
            check_name(name)?;
        }
        let with_tls = file.tls.as_ref().and_then(|tls| tls.protocols.as_deref()).unwrap_or_default();
        for name in with_tls {
            // A listener that was meant would speak in the clear.
            check_name(name).map_err(|why| file.wrong("protocols", "[tls]", &why))?;
        }
        let data = flags.data.clone().or(file.data.clone()).unwrap_or_else(|| "posthaste-data".into());
        let log = flags.log.clone().or(file.log.clone()).unwrap_or_else(|| "info".to_owned());
        let allow_plaintext = flags.allow_plaintext || file.allow_plaintext.unwrap_or(false);
        let entries = entries(&file)?;
        Ok(Settings { data, log, listen, advertise, allow_plaintext, entries, file })
    }
}

fn start_log(filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|e| format!("--log {filter}: {e}"))?;
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal);
    log.try_init().map_err(|e| format!("cannot start the log: {e}"))
}

/// Each connection takes a file handle, so as many as the system allows.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // A lower limit only means fewer connections.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

async fn serve(settings: Settings) -> Result<(), String> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
    let hangup = signal(SignalKind::hangup()).map_err(|e| e.to_string())?;
    // Ports first: one that is taken should not cost a recovery.
    let listeners = bind(&settings).await?;
    let limits = Arc::new(settings.file.limits.clone());
    let config = Config {
        data: settings.data.clone(),
        limits: settings.file.limits.clone(),
        formats: formats(),
        advertised: settings.advertise.clone(),
        threads: None,
    };
    let broker = tokio::task::block_in_place(|| Broker::open(config)).map_err(|e| e.to_string())?;
    settings.file.access.apply(&broker);
    let established = match establish(&settings, &broker).await {
        Ok(keys) => check_plaintext(&settings, &listeners, &broker).map(|()| keys),
        Err(error) => Err(error),
    };
    let keys = match established {
        Ok(keys) => keys,
        Err(error) => {
            tokio::task::block_in_place(|| broker.stop());
            return Err(error);
        }
    };
    let connections = Arc::new(AtomicUsize::new(0));
    broker.watch_connections(connections.clone());
    let ids = broker.clone();
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let loops =
        Loops::start(threads).map_err(|e| format!("cannot start the threads for connections: {e}"))?;
    let shared = Shared {
        limits,
        stopping: broker.stopping(),
        connections,
        loops,
        next_connection: Arc::new(move || ids.next_connection()),
        leave: Leave::new(broker.leave_to_tell()),
    };
    let mut serving = JoinSet::new();
    let mut announced = String::new();
    for (speaker, listener) in SPEAKERS.iter().zip(listeners) {
        let Some(listener) = listener else { continue };
        let address = listener.address();
        announced += &format!("listening {} {address}\n", speaker.name);
        broker.advertise(speaker.name, reachable(speaker.name, address, &settings));
        let Some(entry) = settings.entries.get(speaker.name) else { continue };
        entry.apply(speaker.name, &broker);
        let (broker, shared) = (broker.clone(), shared.clone());
        serving.spawn((speaker.serve)(broker, listener, shared, &settings.file, entry));
    }
    announce(&(announced + "ready\n"));
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = reload(hangup, &settings.entries, &broker, keys) => {}
    }
    tracing::info!("stopping");
    broker.announce_stop();
    let ended = timeout(STOP, async { while serving.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        tracing::warn!("some connections did not end in time");
    }
    serving.abort_all();
    tokio::task::block_in_place(|| broker.stop());
    Ok(())
}

/// Sees to it that the configured users, groups, namespaces, keys and issuers of tokens are there. Returns
/// where the issuers' keys come from.
async fn establish(settings: &Settings, broker: &Broker) -> Result<Vec<KeySource>, String> {
    users::establish(broker, &settings.file.users, &settings.file.user_groups).await?;
    for namespace in settings.entries.values().filter_map(|entry| entry.namespace.as_ref()) {
        if broker.catalog().namespace(namespace).is_some() {
            continue;
        }
        let client = broker.system_client("configuration", namespace.clone(), broker.next_connection());
        let created = client.create_namespace(namespace).await;
        created.map_err(|e| format!("namespace {namespace} in the configuration file: {e}"))?;
    }
    let seal = || sealing::establish(broker, &settings.file, &settings.data);
    tokio::task::block_in_place(seal)?;
    tokens::establish(broker, &settings.file).await
}

async fn bind(settings: &Settings) -> Result<Vec<Option<Listener>>, String> {
    let mut listeners = Vec::new();
    for speaker in &SPEAKERS {
        let address = settings.listen.get(speaker.name).map_or("off", String::as_str);
        if address == "off" {
            listeners.push(None);
            continue;
        }
        let entrance = settings.entries.get(speaker.name).map(|entry| entry.entrance.clone());
        let listener = Listener::bind(speaker.name, address, entrance.unwrap_or_default()).await;
        listeners.push(Some(listener.map_err(|e| format!("{}: {e}", speaker.name))?));
    }
    Ok(listeners)
}

/// Passwords and messages cross a network in the clear only if somebody said that they may.
fn check_plaintext(
    settings: &Settings,
    listeners: &[Option<Listener>],
    broker: &Broker,
) -> Result<(), String> {
    let open = |l: &&Listener| !l.is_tls() && !l.address().ip().is_loopback();
    let open: Vec<SocketAddr> = listeners.iter().flatten().filter(open).map(Listener::address).collect();
    let Some(first) = open.first() else { return Ok(()) };
    if !settings.allow_plaintext {
        return Err(format!(
            "{first} can be reached from other machines, without TLS: configure [tls], listen on 127.0.0.1, or say \
             --allow-plaintext"
        ));
    }
    let all = |entry: &Entry| entry.anonymous == Some(Anonymous::Read { from_anywhere: true });
    if !settings.entries.values().any(all) && !broker.catalog().users().any(|user| !user.loopback_only) {
        return Err(format!(
            "{first} can be reached from other machines, but no user may log in from there: define one in the \
             configuration file, section [users], or start on 127.0.0.1 and use `posthaste user create`"
        ));
    }
    tracing::warn!(address = %first, "listening without TLS where other machines can reach it");
    Ok(())
}

/// What clients are told to connect to when nobody said it. Every address at once is none that a client can use.
fn reachable(protocol: &str, address: SocketAddr, settings: &Settings) -> String {
    if !address.ip().is_unspecified() {
        return address.to_string();
    }
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let told = format!("{name}:{}", address.port());
    if !settings.advertise.contains_key(protocol) {
        tracing::warn!(
            protocol,
            "clients are told to connect to {told}; say --advertise if that is not right"
        );
    }
    told
}

fn announce(text: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody may be reading; the broker runs all the same.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
