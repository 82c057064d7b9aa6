//! TLS files and keys of token issuers are read again when they change, or when SIGHUP asks for it.

use crate::{entrances::Entry, tokens::KeySource};
use posthaste_broker::Broker;
use posthaste_net::Tls;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::signal::unix::Signal;

/// How often is looked whether a file has changed.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Never ends. Without TLS and issuers, SIGHUP does nothing; the process goes on.
pub async fn reload(
    mut hangup: Signal,
    entries: &BTreeMap<&'static str, Entry>,
    broker: &Broker,
    mut keys: Vec<KeySource>,
) {
    let mut all: Vec<Arc<Tls>> = Vec::new();
    for tls in entries.values().filter_map(|entry| entry.entrance.tls.as_ref()) {
        if !all.iter().any(|known| Arc::ptr_eq(known, tls)) {
            all.push(tls.clone());
        }
    }
    loop {
        let asked = tokio::select! {
            asked = hangup.recv() => asked.is_some(),
            () = tokio::time::sleep(LOOK_EVERY) => false,
        };
        for tls in &all {
            let tls = tls.clone();
            let read = move || if asked { tls.reload().map(|()| true) } else { tls.reload_changed() };
            match tokio::task::spawn_blocking(read).await {
                Ok(Ok(true)) => tracing::info!("TLS: certificates and keys were read again"),
                Ok(Err(error)) => {
                    tracing::error!(%error, "TLS: the files cannot be used; what was read before stays");
                }
                Ok(Ok(false)) | Err(_) => {}
            }
        }
        for source in &mut keys {
            let changed = tokio::task::block_in_place(|| source.may_have_changed());
            if changed || asked {
                read_keys(broker, &source.issuer).await;
            }
        }
    }
}

async fn read_keys(broker: &Broker, issuer: &str) {
    match broker.read_token_keys(issuer).await {
        Ok(()) => tracing::info!(issuer, "the keys of a token issuer were read again"),
        Err(error) => {
            tracing::error!(issuer, error, "the keys of a token issuer cannot be used; the old ones stay");
        }
    }
}
