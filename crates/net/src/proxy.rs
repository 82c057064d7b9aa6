//! The PROXY protocol, versions 1 and 2: how a proxy that passes bytes on tells whose they are.
//!
//! The header stands before everything else, TLS included. It is demanded of trusted proxies, so that one
//! that sends none is not taken for its clients, and it is not looked for in what others send.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};
use tokio::io::{AsyncRead, AsyncReadExt};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The longest header of version 1, with its end of line.
const LINE_BYTES_MAX: usize = 107;
/// Addresses and what proxies put behind them, which nobody here reads.
const REST_BYTES_MAX: usize = 4_096;

/// What a header tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Client(SocketAddr),
    /// The proxy speaks for itself, such as to see whether we are there, or does not know for whom.
    Nobody,
}

/// Why a connection of a trusted proxy is not served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("a trusted proxy sent no PROXY header, or none that can be read: {0}")]
    Malformed(&'static str),
    #[error("a trusted proxy closed the connection within its PROXY header: {0}")]
    Io(#[from] io::Error),
}

/// Reads a header and nothing behind it.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Told, HeaderError> {
    // No header is shorter.
    let mut start = [0; SIGNATURE.len()];
    stream.read_exact(&mut start).await?;
    if start == SIGNATURE {
        return read_version_2(stream).await;
    }
    if !start.starts_with(b"PROXY ") {
        return Err(HeaderError::Malformed("it begins otherwise"));
    }
    let mut line = start.to_vec();
    // One byte at a time: those behind the line are somebody else's. It is short, and comes once.
    while !line.ends_with(b"\r\n") {
        if line.len() >= LINE_BYTES_MAX {
            return Err(HeaderError::Malformed("the line is too long"));
        }
        line.push(stream.read_u8().await?);
    }
    line.truncate(line.len() - 2);
    version_1(&line)
}

fn version_1(line: &[u8]) -> Result<Told, HeaderError> {
    let text = std::str::from_utf8(line).map_err(|_| HeaderError::Malformed("the line is no text"))?;
    let words: Vec<&str> = text.split(' ').collect();
    match words[..] {
        ["PROXY", "UNKNOWN", ..] => Ok(Told::Nobody),
        ["PROXY", "TCP4", source, destination, from, to] => {
            line_address::<Ipv4Addr>(source, destination, from, to)
        }
        ["PROXY", "TCP6", source, destination, from, to] => {
            line_address::<Ipv6Addr>(source, destination, from, to)
        }
        _ => Err(HeaderError::Malformed("the line does not name two addresses and ports")),
    }
}

fn line_address<A: FromStr + Into<IpAddr>>(
    source: &str,
    destination: &str,
    from: &str,
    to: &str,
) -> Result<Told, HeaderError> {
    let port = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u16>().ok())?;
    let (Ok(source), Ok(_), Some(from), Some(_)) =
        (source.parse::<A>(), destination.parse::<A>(), port(from), port(to))
    else {
        return Err(HeaderError::Malformed("the line does not name two addresses and ports"));
    };
    Ok(Told::Client(SocketAddr::new(source.into(), from)))
}

async fn read_version_2(stream: &mut (impl AsyncRead + Unpin)) -> Result<Told, HeaderError> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let [command, family, high, low] = head;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > REST_BYTES_MAX {
        return Err(HeaderError::Malformed("it is too long"));
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await?;
    version_2(command, family, &rest)
}

fn version_2(command: u8, family: u8, rest: &[u8]) -> Result<Told, HeaderError> {
    match command {
        0x20 => return Ok(Told::Nobody),
        0x21 => {}
        _ => return Err(HeaderError::Malformed("its version or command is not known")),
    }
    let short = HeaderError::Malformed("its addresses are cut short");
    // Source and destination address, then their ports.
    match family {
        0x11 => {
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *rest.first_chunk::<12>().ok_or(short)?;
            Ok(Told::Client((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])).into()))
        }
        0x21 => {
            let rest = rest.first_chunk::<36>().ok_or(short)?;
            let mut source = [0; 16];
            source.copy_from_slice(&rest[..16]);
            let port = u16::from_be_bytes([rest[32], rest[33]]);
            Ok(Told::Client((Ipv6Addr::from(source), port).into()))
        }
        // Unspecified, or sockets of the proxy's own machine.
        0x00 | 0x31 | 0x32 => Ok(Told::Nobody),
        _ => Err(HeaderError::Malformed("its clients do not use TCP")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told, or why nothing is, and what is left to be read.
    async fn check(mut bytes: &[u8]) -> (Result<Told, String>, usize) {
        let told = read(&mut bytes).await.map_err(|error| error.to_string());
        (told, bytes.len())
    }

    fn version_2(command: u8, family: u8, length: usize, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(length).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    #[tokio::test]
    async fn headers() {
        let client = |text: &str| Ok(Told::Client(text.parse().unwrap()));
        let four = [192, 0, 2, 7, 10, 0, 0, 1, 0x1f, 0x90, 0, 80];
        let mut six = [0; 36];
        six[15] = 1;
        six[33] = 9;
        let with_more = [&four[..], &[4, 0, 1, 0]].concat();
        for (header, expect) in [
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 8080 80\r\n".to_vec(), client("192.0.2.7:8080")),
            (b"PROXY TCP6 2001:db8::1 ::1 65535 1\r\n".to_vec(), client("[2001:db8::1]:65535")),
            (b"PROXY UNKNOWN\r\n".to_vec(), Ok(Told::Nobody)),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), Ok(Told::Nobody)),
            (version_2(0x21, 0x11, 12, &four), client("192.0.2.7:8080")),
            (version_2(0x21, 0x11, 16, &with_more), client("192.0.2.7:8080")),
            (version_2(0x21, 0x21, 36, &six), client("[::1]:9")),
            (version_2(0x20, 0x00, 0, &[]), Ok(Told::Nobody)),
            (version_2(0x20, 0x11, 12, &four), Ok(Told::Nobody)),
            (version_2(0x21, 0x00, 0, &[]), Ok(Told::Nobody)),
            (version_2(0x21, 0x31, 216, &[0; 216]), Ok(Told::Nobody)),
        ] {
            let bytes = [&header[..], b"the client's own"].concat();
            assert_eq!(check(&bytes).await, (expect, 16), "{}", header.escape_ascii());
        }
    }

    #[tokio::test]
    async fn what_is_no_header() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY TCP4 192.0.2.7 10.0.0.1 8080\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 +80 80\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 70000 80\r\n",
            b"PROXY TCP4 ::1 ::1 80 80\r\n",
            b"PROXY TCP4  192.0.2.7 10.0.0.1 80 80\r\n",
            b"PROXY UDP4 192.0.2.7 10.0.0.1 80 80\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 8080 80",
            b"PROXY",
            long.as_bytes(),
            &version_2(0x11, 0x11, 12, &[0; 12]),
            &version_2(0x22, 0x11, 12, &[0; 12]),
            &version_2(0x21, 0x12, 12, &[0; 12]),
            &version_2(0x21, 0x11, 11, &[0; 11]),
            &version_2(0x21, 0x11, 12, &[0; 11]),
            &version_2(0x21, 0x00, 4_097, &[0; 4_097]),
        ] {
            let (told, _) = check(bytes).await;
            assert!(told.unwrap_err().contains("trusted proxy"), "{}", bytes.escape_ascii());
        }
    }

    #[tokio::test]
    async fn nothing_but_the_header_is_taken_whatever_is_in_it() {
        // A generator that repeats: each header is whole or wrong, never read beyond.
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize
        };
        let words =
            ["PROXY ", "TCP4 ", "TCP6 ", "UNKNOWN ", "192.0.2.7 ", "::1 ", "80 ", "0", "\r\n", "\r", "é"];
        for _ in 0..20_000 {
            let mut bytes = match next() % 2 {
                0 => (0..next() % 8).map(|_| words[next() % words.len()]).collect::<String>().into_bytes(),
                _ => version_2(0x20 + (next() % 3) as u8, (next() % 64) as u8, next() % 64, &[7; 64]),
            };
            if let Some(byte) = bytes.get_mut(next() % 200) {
                *byte = next() as u8;
            }
            let (told, left) = check(&bytes).await;
            let taken = bytes.len() - left;
            match bytes.starts_with(&SIGNATURE) {
                true => assert!(taken <= 16 + REST_BYTES_MAX),
                false => {
                    assert!(taken <= LINE_BYTES_MAX && (told.is_err() || bytes[..taken].ends_with(b"\r\n")))
                }
            }
        }
    }
}
