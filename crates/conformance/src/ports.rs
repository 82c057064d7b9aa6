//! Ports that a process can be started on again.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result};

/// Below are ports that systems give to services.
const PORT_MIN: u16 = 10_000;
/// Where the ports of outgoing connections begin when the system does not tell.
const OUTGOING_FROM: u16 = 32_768;
const TRIES_MAX: usize = 1_000;

/// How many have been given out.
static NEXT: AtomicU16 = AtomicU16::new(0);

/// A free port of the loopback address that no outgoing connection is ever given. Of a port that the system
/// chooses (port 0) that is not so: while the process that listened there is dead, a client that tries to
/// connect again may be given it as its own, and the process cannot be started there any more.
pub fn free_address() -> Result<SocketAddr> {
    let room = outgoing_from().checked_sub(PORT_MIN).filter(|room| *room > 0);
    let room = room.context("no ports are left below those of outgoing connections (ip_local_port_range)")?;
    // Processes begin at different ports, so that they seldom look at the same one at the same time.
    let first = (u64::from(process::id()) * 101 % u64::from(room)) as u16;
    for _ in 0..TRIES_MAX {
        let at = (u32::from(first) + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % u32::from(room);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT_MIN + at as u16));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    anyhow::bail!("no free port was found among {TRIES_MAX} from {PORT_MIN} on")
}

fn outgoing_from() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(OUTGOING_FROM)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn free_addresses_differ_and_are_not_those_of_outgoing_connections() {
        let found: BTreeSet<_> = (0..50).map(|_| free_address().unwrap()).collect();
        assert_eq!(found.len(), 50);
        assert!(found.iter().all(|address| (PORT_MIN..outgoing_from()).contains(&address.port())));
    }
}
