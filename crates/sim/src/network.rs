//! Connections without sockets: what is sent arrives in pieces, late, or not at all.

use posthaste_storage::Random;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split},
    time::sleep,
};

/// Octets that are on their way in one direction.
const IN_FLIGHT_OCTETS: usize = 32 << 10;

/// How connections behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    /// A connection breaks after about this many pieces; `None`: never.
    pub pieces_until_cut: Option<u64>,
    /// One piece in so many is late.
    pub one_late_in: u64,
    /// How late, in milliseconds, at most.
    pub late_ms_max: u64,
}

impl Weather {
    pub const CALM: Weather = Weather { pieces_until_cut: None, one_late_in: 16, late_ms_max: 3 };
}

/// A connection: the client's end, and the server's. Must be called within a `LocalSet`.
pub fn connect(weather: Weather, random: &mut Random) -> (DuplexStream, DuplexStream) {
    let (client, near) = duplex(IN_FLIGHT_OCTETS);
    let (far, server) = duplex(IN_FLIGHT_OCTETS);
    let mut ways = [Random::new(random.next_u64()), Random::new(random.next_u64())];
    tokio::task::spawn_local(async move {
        let (near_in, near_out) = split(near);
        let (far_in, far_out) = split(far);
        let [there, back] = &mut ways;
        // Whichever direction ends first takes the other one with it.
        tokio::select! {
            biased;
            () = carry(near_in, far_out, weather, there) => {}
            () = carry(far_in, near_out, weather, back) => {}
        }
    });
    (client, server)
}

async fn carry(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    weather: Weather,
    random: &mut Random,
) {
    let mut left = weather.pieces_until_cut.map(|pieces| 1 + random.below(2 * pieces));
    let mut buffer = vec![0; 4 << 10];
    loop {
        let most = if random.chance(1, 4) { 1 + random.below(64) as usize } else { buffer.len() };
        let Some(piece) = buffer.get_mut(..most) else { return };
        let count = match from.read(piece).await {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        if let Some(left) = &mut left {
            *left -= 1;
            if *left == 0 {
                return;
            }
        }
        if random.chance(1, weather.one_late_in) {
            sleep(Duration::from_millis(1 + random.below(weather.late_ms_max))).await;
        }
        if to.write_all(&piece[..count]).await.is_err() {
            return;
        }
    }
}
