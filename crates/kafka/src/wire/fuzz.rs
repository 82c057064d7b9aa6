//! The way in for fuzzing.

use bytes::{Bytes, BytesMut};

use super::api::{SUPPORTED, decode_any_response, decode_request_if};
use super::frame::split_frame;
use super::reader::Reader;
use super::records::{ProduceRules, batches, validate_produce};

/// Largest decompressed batch while fuzzing, in bytes.
const MAX_DECOMPRESSED_BYTES: usize = 1 << 20;

/// Drives every decoder on arbitrary bytes. The first two choose an API and a version, the rest is read as a
/// stream of frames, as a request, as that API's response and as record batches.
pub fn fuzz_decode(data: &[u8]) {
    let Some((&[choice, version], rest)) = data.split_first_chunk::<2>() else { return };
    let rest = Bytes::copy_from_slice(rest);

    let mut stream = BytesMut::from(data);
    while let Ok(Some(frame)) = split_frame(&mut stream, 1 << 16) {
        let _ = decode_request_if(frame, |_| true);
    }
    let _ = decode_request_if(rest.clone(), |_| true);

    if let Some(range) = SUPPORTED.get(usize::from(choice) % SUPPORTED.len()) {
        let versions = range.max_version - range.min_version + 1;
        let version = range.min_version + i16::from(version) % versions;
        let mut request = Vec::from((range.key as i16).to_be_bytes());
        request.extend(version.to_be_bytes());
        request.extend([0, 0, 0, 1, 0xff, 0xff]);
        if range.is_flexible(version) {
            request.push(0);
        }
        request.extend(&rest);
        let _ = decode_request_if(request.into(), |_| true);
        let mut reader = Reader::new(rest.clone(), version, range.is_flexible(version));
        let _ = decode_any_response(range.key, &mut reader);
    }

    let rules = ProduceRules { api_version: 9, max_batch_bytes: 1 << 20, max_batches: 4 };
    let _ = validate_produce(&rest, &rules);
    for batch in batches(rest).flatten() {
        let _ = batch.verify_records(MAX_DECOMPRESSED_BYTES);
        let records = batch.records(MAX_DECOMPRESSED_BYTES).into_iter().flatten().flatten();
        let _ = records.map(|record| record.headers.iter().count()).sum::<usize>();
    }
}
