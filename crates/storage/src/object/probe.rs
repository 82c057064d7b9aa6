//! Whether a store honours put-if-absent: asked at each start, since everything rests on it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::future::join_all;
use object_store::Error;

use super::{ATTEMPTS, Bucket, OpenError};

/// Puts that race for one key.
const RACERS: usize = 32;
/// Races: a store that checks and then acts may win one by luck.
const RACES: usize = 3;

static PROBES: AtomicU64 = AtomicU64::new(0);

pub(super) fn probe(bucket: &Bucket) -> Result<(), OpenError> {
    let nonce = format!(
        "{:x}-{:x}-{:x}",
        std::process::id(),
        PROBES.fetch_add(1, Ordering::Relaxed),
        std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos())
    );
    let dir = format!("probe/{nonce}");
    let (own, name) = (bucket.clone(), bucket.name().to_owned());
    let verdict = bucket.wait(async move {
        let verdict = ask(&own, &dir).await;
        // What stays behind is a few bytes under a key that nobody uses again: not worth waiting for a store
        // that does not answer.
        if verdict.is_ok() {
            for race in 0..=RACES {
                let _ = own.delete(&format!("{dir}/{race}")).await;
            }
        }
        verdict
    });
    match verdict {
        Ok(None) => Ok(()),
        Ok(Some(reason)) => Err(OpenError::Unsafe { name, reason }),
        Err(error) => Err(OpenError::Io { action: "use", name, error }),
    }
}

/// What the store did wrong, if anything.
async fn ask(bucket: &Bucket, dir: &str) -> io::Result<Option<String>> {
    let key = format!("{dir}/0");
    let attempts = AtomicU32::new(1);
    let goes_on = || attempts.fetch_add(1, Ordering::Relaxed) < ATTEMPTS;
    let put = bucket.put_new(&key, &[Bytes::from_static(b"first")], b"first", goes_on).await;
    put.map_err(|error| io::Error::new(error.kind(), format!("a first object cannot be put: {error}")))?;
    let second = || async {
        match bucket.try_put_new(&key, &[Bytes::from_static(b"second")]).await {
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(None),
            Ok(()) => Ok(Some("it let a second put replace the first".to_owned())),
            Err(Error::NotImplemented { .. }) => Ok(Some("it does not know it".to_owned())),
            Err(error) => Err(error),
        }
    };
    if let Some(reason) = bucket.patiently(second).await? {
        return Ok(Some(reason));
    }
    if bucket.get(&key).await? != b"first"[..] {
        return Ok(Some("a put that it refused changed the object".to_owned()));
    }
    for race in 1..=RACES {
        if let Some(reason) = race_for(bucket, &format!("{dir}/{race}")).await? {
            return Ok(Some(reason));
        }
    }
    Ok(None)
}

async fn race_for(bucket: &Bucket, key: &str) -> io::Result<Option<String>> {
    let key: Arc<str> = key.into();
    let racers = (0..RACERS).map(|racer| {
        let (bucket, key) = (bucket.clone(), key.clone());
        async move { (racer, bucket.try_put_new(&key, &[body(racer)]).await) }
    });
    let mut winners = Vec::new();
    let mut unsure = false;
    for outcome in join_all(racers).await {
        match outcome {
            (racer, Ok(())) => winners.push(racer),
            (_, Err(Error::AlreadyExists { .. } | Error::Precondition { .. })) => {}
            // A lost answer is no breach, but the winner may be among these.
            (_, Err(_)) => unsure = true,
        }
    }
    let held = match bucket.get(&key).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        outcome => Some(outcome?),
    };
    Ok(match (&winners[..], held) {
        ([winner], Some(held)) if held == body(*winner) => None,
        ([_], _) => {
            Some(format!("of {RACERS} racing puts, one was told that it won and its content was not kept"))
        }
        // One that is told that the key is taken may have taken it: who puts looks what is there.
        ([], Some(_)) => None,
        ([], None) if unsure => None,
        ([], None) => Some(format!("of {RACERS} racing puts for a new key none won")),
        _ => Some(format!("of {RACERS} racing puts for one key {} were told that they won", winners.len())),
    })
}

fn body(racer: usize) -> Bytes {
    Bytes::from(format!("racer {racer:02}"))
}
