//! A client's end of a connection: it sends what was encoded beforehand and looks at as little as it can.

use anyhow::{Result, ensure};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

pub struct Stream {
    stream: DuplexStream,
    pub input: BytesMut,
}

impl Stream {
    pub fn new(stream: DuplexStream) -> Stream {
        Stream { stream, input: BytesMut::with_capacity(64 << 10) }
    }

    pub async fn write(&mut self, octets: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(octets).await?)
    }

    /// Waits for more input.
    pub async fn fill(&mut self) -> Result<()> {
        self.input.reserve(16 << 10);
        let read = self.stream.read_buf(&mut self.input).await?;
        ensure!(read > 0, "the broker closed the connection");
        Ok(())
    }

    /// Takes so many octets and forgets them.
    pub async fn skip(&mut self, octets: usize) -> Result<()> {
        let mut left = octets;
        loop {
            let taken = left.min(self.input.len());
            bytes::Buf::advance(&mut self.input, taken);
            left -= taken;
            if left == 0 {
                return Ok(());
            }
            self.fill().await?;
        }
    }
}

/// The same in every run, and not compressible at a glance.
pub fn body(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| ((at as u32).wrapping_mul(0x9e37_79b9) >> 24) as u8).collect()
}
