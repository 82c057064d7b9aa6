//! A client's end of a connection that waits for nothing.

use super::world::SLEEP_MAX;
use crate::clients::Accept;
use bytes::BytesMut;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time::{sleep, timeout},
};

/// Octets that are on their way in one direction.
const IN_FLIGHT_OCTETS: usize = 64 << 10;
/// How often a write is tried, [`SLEEP_MAX`] each time, before the broker counts as one that does not read.
const WRITES_MAX: u32 = 50;

pub struct Line {
    stream: Option<DuplexStream>,
    pub input: BytesMut,
}

impl Line {
    pub fn open(accept: &Accept) -> Line {
        let (client, server) = duplex(IN_FLIGHT_OCTETS);
        accept(server);
        Line { stream: Some(client), input: BytesMut::new() }
    }

    pub fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    pub fn cut(&mut self) {
        self.stream = None;
    }

    /// Sends what the broker takes, and reads meanwhile.
    pub async fn write(&mut self, mut octets: &[u8]) {
        for _ in 0..WRITES_MAX {
            let Some(stream) = &mut self.stream else { return };
            match timeout(SLEEP_MAX, stream.write(octets)).await {
                Ok(Ok(written)) => octets = &octets[written..],
                Ok(Err(_)) => {
                    // What came before it closed is still read.
                    self.listen().await;
                    self.cut();
                    return;
                }
                Err(_) => self.listen().await,
            }
            if octets.is_empty() {
                return;
            }
        }
    }

    /// Takes what has arrived.
    pub async fn listen(&mut self) {
        while let Some(stream) = &mut self.stream {
            match timeout(Duration::ZERO, stream.read_buf(&mut self.input)).await {
                Ok(Ok(0) | Err(_)) => self.cut(),
                Ok(Ok(_)) => {}
                Err(_) => return,
            }
        }
    }
}

/// Lets the broker work until it has nothing more to do, or not so long.
pub async fn pace(choice: u8) {
    match choice & 3 {
        0 | 1 => sleep(2 * SLEEP_MAX).await,
        2 => tokio::task::yield_now().await,
        _ => {}
    }
}
