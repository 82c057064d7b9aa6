use bytes::{Bytes, BytesMut};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{self as theirs, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions};

use super::super::sampler::Sampler;
use super::*;

const PLENTY: usize = 1 << 20;
const RULES: ProduceRules = ProduceRules { api_version: 9, max_batch_bytes: PLENTY, max_batches: 1 };

const CODECS: [(theirs::Compression, Compression); 5] = [
    (theirs::Compression::None, Compression::None),
    (theirs::Compression::Gzip, Compression::Gzip),
    (theirs::Compression::Snappy, Compression::Snappy),
    (theirs::Compression::Lz4, Compression::Lz4),
    (theirs::Compression::Zstd, Compression::Zstd),
];

fn their_record(offset: i64, key: Option<Bytes>, value: Option<Bytes>) -> theirs::Record {
    let headers = [("trace", Some(Bytes::from_static(b"1"))), ("", None)];
    theirs::Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: 4,
        producer_id: 8,
        producer_epoch: 1,
        timestamp_type: theirs::TimestampType::Creation,
        offset,
        sequence: 100 + offset as i32,
        timestamp: 1_700_000_000_000 + offset * 3,
        key,
        value,
        headers: headers.map(|(key, value)| (StrBytes::from_static_str(key), value)).into_iter().collect(),
    }
}

fn encode(records: &[theirs::Record], compression: theirs::Compression) -> Bytes {
    let mut bytes = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression };
    RecordBatchEncoder::encode(&mut bytes, records, &options).unwrap();
    bytes.freeze()
}

fn decode(mut bytes: Bytes) -> Vec<theirs::Record> {
    RecordBatchDecoder::decode(&mut bytes).unwrap().records
}

fn sample_records(sampler: &mut Sampler) -> Vec<theirs::Record> {
    let optional = |sampler: &mut Sampler| (sampler.below(4) > 0).then(|| sampler.bytes());
    (0..1 + sampler.below(30) as i64)
        .map(|offset| their_record(offset, optional(sampler), optional(sampler)))
        .collect()
}

fn one(bytes: Bytes) -> RecordBatch {
    let mut found: Vec<_> = batches(bytes).collect();
    assert_eq!(found.len(), 1);
    found.remove(0).unwrap()
}

#[test]
fn batches_of_an_independent_producer_are_read_in_every_compression() {
    let mut sampler = Sampler::new(1);
    for (codec, expect) in CODECS {
        for _ in 0..30 {
            let records = sample_records(&mut sampler);
            let found = validate_produce(&encode(&records, codec), &RULES).unwrap();
            let [batch] = &found[..] else { panic!("{found:?}") };
            let header = batch.header();
            assert_eq!(header.attributes.compression(), Ok(expect));
            assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (8, 1, 100));
            assert_eq!(header.last_sequence(), Some(100 + records.len() as i32 - 1));
            assert_eq!(header.next_offset(), records.len() as i64);
            assert_eq!(header.max_timestamp, records.last().unwrap().timestamp);
            batch.verify_records(PLENTY).unwrap();

            let read: Vec<_> = batch.records(PLENTY).unwrap().map(Result::unwrap).collect();
            assert_eq!(read.len(), records.len());
            for (read, record) in read.iter().zip(&records) {
                assert_eq!((read.offset, read.timestamp), (record.offset, record.timestamp));
                assert_eq!((&read.key, &read.value), (&record.key, &record.value));
                let headers: Vec<_> = read.headers.iter().map(|header| (header.key, header.value)).collect();
                let expect = [("trace".into(), Some(Bytes::from_static(b"1"))), ("".into(), None)];
                assert_eq!(headers, expect);
            }
        }
    }
}

#[test]
fn built_batches_are_read_by_an_independent_consumer() {
    let mut sampler = Sampler::new(2);
    for _ in 0..50 {
        let mut builder = BatchBuilder::new(1000, 4);
        let mut expect = Vec::new();
        let mut offset = 1000;
        for _ in 0..1 + sampler.below(20) {
            let timestamp = sampler.next() as i64 >> (20 + sampler.below(40));
            let (key, value, header) = (sampler.bytes(), sampler.bytes(), sampler.string());
            let headers = [(&*header, Some(&key[..])), ("none", None)];
            assert!(builder.push(offset, timestamp, Some(&key), Some(&value), &headers));
            expect.push((offset, timestamp, Some(key.clone()), Some(value), (header.to_string(), Some(key))));
            offset += 1 + sampler.below(3) as i64;
        }
        let bytes = builder.finish();
        one(bytes.clone()).verify_checksum().unwrap();
        let read = decode(bytes).into_iter().map(|record| {
            let (name, value) =
                record.headers.first().map(|(name, value)| (name.to_string(), value.clone())).unwrap();
            (record.offset, record.timestamp, record.key, record.value, (name, value))
        });
        assert_eq!(read.collect::<Vec<_>>(), expect);
    }
}

#[test]
fn a_builder_takes_only_what_fits() {
    let mut builder = BatchBuilder::new(10, 0);
    assert!(!builder.push(9, 0, None, None, &[]));
    assert!(builder.push(10, 5, None, None, &[]));
    assert!(!builder.push(10, 5, None, None, &[]), "the same offset twice");
    assert!(!builder.push(10 + (1 << 31), 5, None, None, &[]));
    assert!(builder.push(12, 3, None, Some(b"v"), &[]));
    builder.extend_to(20);
    assert!(!builder.push(20, 0, None, None, &[]));

    let batch = one(builder.finish());
    assert_eq!((batch.header().last_offset(), batch.header().records_count), (20, 2));
    assert_eq!((batch.header().base_timestamp, batch.header().max_timestamp), (5, 5));
    let offsets: Vec<_> = batch.records(0).unwrap().map(|record| record.unwrap().offset).collect();
    assert_eq!(offsets, [10, 12]);

    let mut empty = BatchBuilder::new(10, 0);
    empty.extend_to(12);
    let empty = one(empty.finish());
    assert_eq!((empty.header().next_offset(), empty.records(0).unwrap().count()), (13, 0));
}

#[test]
fn log_append_time_replaces_the_producers_timestamps() {
    let records = [their_record(0, None, None), their_record(1, None, None)];
    let batch = one(encode(&records, theirs::Compression::Zstd)).with_log_append_time(77);
    batch.verify_checksum().unwrap();
    assert_eq!(batch.header().attributes.timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!(batch, one(batch.bytes().clone()), "header and bytes say the same");
    let stamps: Vec<_> = batch.records(PLENTY).unwrap().map(|record| record.unwrap().timestamp).collect();
    assert_eq!(stamps, [77, 77]);
    assert_eq!(decode(batch.into_bytes()).len(), 2);
}

/// A batch with some header fields changed and the checksum put right.
fn altered(change: impl FnOnce(&mut BatchHeader)) -> Bytes {
    let bytes =
        encode(&[their_record(0, None, None), their_record(1, None, None)], theirs::Compression::None);
    let mut header = one(bytes.clone()).header().clone();
    change(&mut header);
    let mut altered = BytesMut::new();
    header.encode(&mut altered);
    altered.extend_from_slice(&bytes[HEADER_BYTES..]);
    header::put_checksum(&mut altered);
    altered.freeze()
}

#[test]
fn what_a_producer_may_not_send() {
    let good = altered(|_| {});
    let size = good.len();
    let with = |bytes: Bytes, at: usize, value: u8| {
        let mut changed = bytes.to_vec();
        changed[at] = value;
        Bytes::from(changed)
    };
    let flagged = |bit: i16| altered(move |header| header.attributes.0 |= bit);
    let state = |producer_id, producer_epoch, base_sequence| RecordsError::ProducerState {
        producer_id,
        producer_epoch,
        base_sequence,
    };
    let count = |count, last_offset_delta| RecordsError::Count { count, last_offset_delta };
    let damaged = with(good.clone(), size - 1, 9);
    let checksum = |bytes: &Bytes| crc32c::crc32c(&bytes[21..]);
    for (name, bytes, expect) in [
        ("nothing", Bytes::new(), RecordsError::NoBatch),
        ("two", [good.clone(), good.clone()].concat().into(), RecordsError::TooManyBatches { limit: 1 }),
        (
            "cut off",
            good.slice(..size - 1),
            RecordsError::BatchSize { announced: size as i64, available: size - 1 },
        ),
        ("only a header", good.slice(..60), RecordsError::BatchSize { announced: 61, available: 60 }),
        (
            "negative length",
            with(good.clone(), 8, 0x80),
            RecordsError::BatchSize {
                announced: i64::from(size as i32 - 12 + i32::MIN) + 12,
                available: size,
            },
        ),
        (
            "length below the header",
            altered(|header| header.batch_length = 48),
            RecordsError::BatchSize { announced: 60, available: size },
        ),
        ("magic 1", with(good.clone(), 16, 1), RecordsError::Magic(1)),
        ("short batch of magic 0", with(good.slice(..20), 16, 0), RecordsError::Magic(0)),
        (
            "damaged",
            damaged.clone(),
            RecordsError::Checksum { announced: checksum(&good), found: checksum(&damaged) },
        ),
        ("compression 5", flagged(5), RecordsError::UnknownCompression(5)),
        ("log append time", flagged(8), RecordsError::LogAppendTime),
        ("control", flagged(32), RecordsError::ControlBatch),
        ("delete horizon", flagged(64), RecordsError::DeleteHorizon),
        ("no records", altered(|header| header.records_count = 0), count(0, 1)),
        ("too few", altered(|header| header.records_count = 1), count(1, 1)),
        ("negative delta", altered(|header| header.last_offset_delta = -1), count(2, -1)),
        (
            "negative count",
            altered(|header| {
                (header.records_count, header.last_offset_delta) = (i32::MIN, i32::MAX);
            }),
            count(i32::MIN, i32::MAX),
        ),
        ("no sequence", altered(|header| header.base_sequence = -1), state(8, 1, -1)),
        ("no epoch", altered(|header| header.producer_epoch = -1), state(8, -1, 100)),
        (
            "transaction of nobody",
            altered(|header| {
                header.attributes.0 |= 16;
                header.producer_id = -1;
            }),
            state(-1, 1, 100),
        ),
    ] {
        assert_eq!(validate_produce(&bytes, &RULES), Err(expect), "{name}");
    }

    let rules = ProduceRules { max_batch_bytes: size - 1, ..RULES };
    let expect = RecordsError::BatchTooLarge { size, limit: size - 1 };
    assert_eq!(validate_produce(&good, &rules), Err(expect));
    let zstd = encode(&[their_record(0, None, None)], theirs::Compression::Zstd);
    let rules = ProduceRules { api_version: 6, ..RULES };
    assert_eq!(validate_produce(&zstd, &rules), Err(RecordsError::ZstdTooEarly));
    let rules = ProduceRules { max_batches: 2, ..RULES };
    let two = validate_produce(&[good.clone(), good.clone()].concat().into(), &rules).unwrap();
    assert_eq!(two.iter().map(|batch| batch.bytes().clone()).collect::<Vec<_>>(), [good.clone(), good]);
}

#[test]
fn records_that_are_not_what_the_header_says() {
    let more = altered(|header| (header.records_count, header.last_offset_delta) = (3, 2));
    assert!(matches!(one(more).verify_records(PLENTY), Err(RecordsError::Record(_))));
    let fewer = altered(|header| (header.records_count, header.last_offset_delta) = (1, 0));
    assert!(matches!(one(fewer).verify_records(PLENTY), Err(RecordsError::TrailingBytes(_))));
    let mut gap = BatchBuilder::new(0, 0);
    assert!(gap.push(0, 0, None, None, &[]) && gap.push(2, 0, None, None, &[]));
    assert_eq!(
        one(gap.finish()).verify_records(PLENTY),
        Err(RecordsError::OffsetDelta { index: 1, offset_delta: 2 })
    );
}

#[test]
fn sequences_wrap_to_zero() {
    for (base_sequence, last_offset_delta, expect) in
        [(-1, 5, None), (0, 0, Some(0)), (i32::MAX, 0, Some(i32::MAX)), (i32::MAX - 1, 3, Some(1))]
    {
        let mut header = one(altered(|_| {})).header().clone();
        (header.base_sequence, header.last_offset_delta) = (base_sequence, last_offset_delta);
        assert_eq!(header.last_sequence(), expect);
    }
}

#[test]
fn decompressing_stops_at_the_limit() {
    let zeros = [their_record(0, None, Some(vec![0u8; 900_000].into()))];
    for (codec, ours) in CODECS {
        let batch = one(encode(&zeros, codec));
        batch.verify_records(PLENTY).unwrap();
        let records = batch.records(100_000).map(drop);
        match ours {
            // Slices of the batch: nothing is decompressed.
            Compression::None => assert_eq!(records, Ok(())),
            _ => assert_eq!(records, Err(RecordsError::DecompressedTooLarge { limit: 100_000 })),
        }
        let exact = batch.records(PLENTY).unwrap().remaining_bytes();
        assert!(batch.records(exact).is_ok(), "{ours:?}");
        if ours != Compression::None {
            assert!(batch.records(exact - 1).is_err(), "{ours:?}");
        }
    }
}

#[test]
fn snappy_without_framing_and_in_concatenated_streams() {
    let plain = Bytes::from(b"twenty times ".repeat(20));
    let block = snap::raw::Encoder::new().compress_vec(&plain).unwrap();
    assert_eq!(Compression::Snappy.decompress(block.clone().into(), PLENTY), Ok(plain.clone()));

    let stream =
        [b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01", &(block.len() as u32).to_be_bytes()[..], &block].concat();
    let twice = [stream.clone(), stream].concat();
    assert_eq!(
        Compression::Snappy.decompress(twice.into(), PLENTY),
        Ok([plain.clone(), plain].concat().into())
    );

    // Claims 4 GB in ten bytes.
    let claim = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 0, 0]);
    let refused = Compression::Snappy.decompress(claim, usize::MAX).unwrap_err();
    assert!(matches!(refused, RecordsError::Compressed { .. }), "{refused}");
}

#[test]
fn damaged_batches_never_panic() {
    let mut sampler = Sampler::new(3);
    for round in 0..6000 {
        let (codec, _) = CODECS[round % CODECS.len()];
        let mut bytes = encode(&sample_records(&mut sampler), codec).to_vec();
        for _ in 0..1 + sampler.below(5) {
            let at = match sampler.below(3) {
                0 => sampler.below(bytes.len()),
                _ => HEADER_BYTES + sampler.below(bytes.len() - HEADER_BYTES),
            };
            bytes[at] = sampler.next() as u8;
        }
        if sampler.below(4) == 0 {
            bytes.truncate(sampler.below(bytes.len()));
        }
        let bytes = Bytes::from(bytes);
        let _ = validate_produce(&bytes, &RULES);
        for batch in batches(bytes).flatten() {
            let _ = batch.verify_records(PLENTY);
            for record in batch.records(PLENTY).into_iter().flatten().flatten() {
                assert_eq!(record.headers.iter().count(), record.headers.len());
            }
        }
    }
}

/// Kafka's Java client replaces what is no UTF-8 in a header's name; records are not lost over it.
#[test]
fn a_header_name_that_is_not_utf8_is_replaced() {
    let bytes = encode(&[their_record(0, None, None)], theirs::Compression::None);
    let at = bytes.windows(5).position(|window| window == b"trace").unwrap();
    let mut changed = bytes.to_vec();
    changed[at] = 0xff;
    let record = one(changed.into()).records(0).unwrap().next().unwrap().unwrap();
    assert_eq!(&*record.headers.iter().next().unwrap().key, "\u{fffd}race");
}
