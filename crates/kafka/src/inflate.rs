//! Checks the records of compressed batches. A few compressed bytes may stand for very many, so a large batch
//! is checked off the threads that serve connections, and only so many at a time.

use std::sync::Arc;

use posthaste_broker::Broker;
use tokio::sync::Semaphore;

use crate::limits::{
    DECOMPRESSED_AT_ONCE_BYTES, DECOMPRESSED_BATCH_BYTES_MAX, DECOMPRESSED_RATIO_FREE_BYTES,
    DECOMPRESSED_RATIO_MAX,
};
use crate::wire::messages::produce::ProduceRequest;
use crate::wire::records::{RecordBatch, RecordsError, Verified};

/// What became of the batches of one request, in its order of topics and partitions; none for a batch that is
/// not compressed, or is none.
pub type Checked = Vec<Option<Result<Verified, RecordsError>>>;

/// Bounds how many large batches are checked at a time, over all connections.
#[derive(Clone)]
pub struct Inflating(Arc<Semaphore>);

impl Default for Inflating {
    fn default() -> Inflating {
        Inflating(Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from))))
    }
}

impl Inflating {
    /// Checks the compressed batches of a request. Of one connection one batch is checked at a time.
    pub async fn check(&self, broker: &Broker, request: &ProduceRequest) -> Checked {
        let mut checked = Vec::new();
        for data in request.topic_data.iter().flat_map(|topic| &topic.partition_data) {
            let Some(batch) = data.records.as_ref().and_then(compressed) else {
                checked.push(None);
                continue;
            };
            let small = batch.verify_records(DECOMPRESSED_AT_ONCE_BYTES);
            checked.push(Some(match small {
                Err(RecordsError::DecompressedTooLarge { .. }) => self.check_aside(broker, batch).await,
                small => small,
            }));
        }
        checked
    }

    async fn check_aside(&self, broker: &Broker, batch: RecordBatch) -> Result<Verified, RecordsError> {
        let limit = allowed(batch.bytes().len());
        let refused = RecordsError::DecompressedTooLarge { limit };
        // The semaphore is never closed.
        let Ok(_turn) = self.0.acquire().await else { return Err(refused) };
        // Nothing came back: the broker is stopping.
        broker.work_aside(move || batch.verify_records(limit)).await.unwrap_or(Err(refused))
    }
}

/// As many bytes as a batch of this size may decompress to.
fn allowed(compressed: usize) -> usize {
    let by_ratio = compressed.saturating_mul(DECOMPRESSED_RATIO_MAX);
    by_ratio.clamp(DECOMPRESSED_RATIO_FREE_BYTES, DECOMPRESSED_BATCH_BYTES_MAX)
}

/// The batch, if there is one and it is compressed.
fn compressed(records: &bytes::Bytes) -> Option<RecordBatch> {
    let batch = RecordBatch::split_from(&mut records.clone()).ok()?;
    let codec = batch.header().attributes.compression().ok()?;
    (codec != crate::wire::records::Compression::None).then_some(batch)
}
