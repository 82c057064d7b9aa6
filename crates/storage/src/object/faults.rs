//! A store that loses answers, answers late, fails, and, if told to, lies. What it does follows from a seed and
//! from the order in which requests arrive.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

use crate::Random;

/// How often what goes wrong, in percent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// Nothing is done, and an error returned.
    pub refused: u64,
    /// It is done, and an error returned.
    pub answer_lost: u64,
    /// A put is done, and its own success returned as "already exists".
    pub own_success: u64,
    /// It is done late, so that later requests overtake it.
    pub slow: u64,
}

#[derive(Debug)]
pub struct FaultStore {
    inner: Arc<InMemory>,
    rates: Rates,
    random: Mutex<Random>,
    /// Nothing answers.
    pub away: AtomicBool,
    /// Put-if-absent overwrites.
    pub ignores_conditions: AtomicBool,
}

impl FaultStore {
    pub fn new(inner: Arc<InMemory>, rates: Rates, seed: u64) -> FaultStore {
        FaultStore {
            inner,
            rates,
            random: Mutex::new(Random::new(seed)),
            away: AtomicBool::new(false),
            ignores_conditions: AtomicBool::new(false),
        }
    }

    fn happens(&self, percent: u64) -> bool {
        self.random.lock().chance(percent, 100)
    }

    async fn before(&self) -> Result<()> {
        if self.happens(self.rates.slow) {
            let millis = self.random.lock().below(12);
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
        match self.away.load(Ordering::Relaxed) || self.happens(self.rates.refused) {
            true => Err(error("503 slow down")),
            false => Ok(()),
        }
    }

    fn after<T>(&self, outcome: T) -> Result<T> {
        if self.happens(self.rates.answer_lost) { Err(error("connection reset")) } else { Ok(outcome) }
    }
}

fn error(text: &'static str) -> Error {
    Error::Generic { store: "fault", source: text.into() }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultStore")
    }
}

#[async_trait::async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        self.before().await?;
        if self.ignores_conditions.load(Ordering::Relaxed) {
            options.mode = PutMode::Overwrite;
        }
        let conditional = options.mode == PutMode::Create;
        let put = self.inner.put_opts(path, payload, options).await?;
        if conditional && self.happens(self.rates.own_success) {
            return Err(Error::AlreadyExists { path: path.to_string(), source: "retried".into() });
        }
        self.after(put)
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.before().await?;
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.before().await?;
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
