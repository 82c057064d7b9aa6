//! A store for tests, in memory: it loses answers, answers late, fails, and, if told to, lies. What it does
//! follows from a seed and from the order in which it is asked and polled.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::{BoxFuture, FutureExt, TryFutureExt};
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

use crate::Random;

/// How often something goes wrong, in percent of requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// Nothing is done, and an error returned.
    pub refused: u64,
    /// It is done, and an error returned.
    pub answer_lost: u64,
    /// A put-if-absent is done, and its own success returned as "already exists".
    pub own_success: u64,
    /// It is done late, so that later requests overtake it.
    pub slow: u64,
}

/// A request that is late is done within so many polls.
const SLOW_POLLS: u64 = 40;

/// A store in memory. Clones share it.
#[derive(Clone, Debug)]
pub struct SimStore {
    inner: Arc<InMemory>,
    network: Arc<Mutex<Network>>,
}

struct Network {
    random: Random,
    rates: Rates,
    /// Nothing answers.
    away: bool,
    /// Put-if-absent overwrites.
    ignores_conditions: bool,
    /// One of so many puts is acknowledged and not done; 0 for none.
    forgets_one_in: u64,
    /// Counts polls of whoever waits for an answer.
    now: u64,
    flying: Vec<Flying>,
}

/// A request that has left its sender, who need not be there any more when it arrives.
struct Flying {
    due: u64,
    deed: BoxFuture<'static, ()>,
}

/// The answer to a request.
struct Answer<T> {
    network: Arc<Mutex<Network>>,
    slot: Arc<Mutex<Option<Result<T>>>>,
}

impl SimStore {
    /// An empty store.
    pub fn new(rates: Rates, seed: u64) -> SimStore {
        SimStore::holding(InMemory::new(), rates, seed)
    }

    fn holding(inner: InMemory, rates: Rates, seed: u64) -> SimStore {
        let network = Network {
            random: Random::new(seed),
            rates,
            away: false,
            ignores_conditions: false,
            forgets_one_in: 0,
            now: 0,
            flying: Vec::new(),
        };
        SimStore { inner: Arc::new(inner), network: Arc::new(Mutex::new(network)) }
    }

    /// From now on.
    pub fn set_rates(&self, rates: Rates) {
        self.network.lock().rates = rates;
    }

    /// While it is away every request fails.
    pub fn set_away(&self, away: bool) {
        self.network.lock().away = away;
    }

    /// From now on put-if-absent overwrites.
    pub fn ignore_conditions(&self) {
        self.network.lock().ignores_conditions = true;
    }

    /// From now on one of so many puts is acknowledged and not done.
    pub fn forget_puts(&self, one_in: u64) {
        self.network.lock().forgets_one_in = one_in;
    }

    /// Whoever asked is gone. What is on its way arrives later, or never.
    pub fn abandon(&self) {
        let network = &mut *self.network.lock();
        let (random, now) = (&mut network.random, network.now);
        network.flying.retain_mut(|flying| {
            flying.due = now + random.below(3 * SLOW_POLLS);
            random.chance(1, 2)
        });
    }

    /// What it holds now, in a store where nothing goes wrong.
    pub fn copy(&self) -> SimStore {
        SimStore::holding(self.inner.fork(), Rates::default(), 0)
    }

    /// Keys and sizes in bytes, sorted.
    pub fn list_now(&self) -> Vec<(String, u64)> {
        let listed = self.inner.list(None).try_collect::<Vec<_>>().now_or_never();
        let listed = listed.and_then(Result::ok).unwrap_or_default();
        let mut keys: Vec<_> =
            listed.into_iter().map(|meta| (meta.location.as_ref().to_owned(), meta.size)).collect();
        keys.sort_unstable();
        keys
    }

    /// An object as it is now.
    pub fn read_now(&self, key: &str) -> Option<Vec<u8>> {
        let read = async { self.inner.get(&Path::from(key)).await.ok()?.bytes().await.ok() };
        Some(read.now_or_never()??.to_vec())
    }

    /// Changes an object behind everybody's back.
    pub fn write_now(&self, key: &str, bytes: Vec<u8>) {
        let _ = self.inner.put(&Path::from(key), PutPayload::from(bytes)).now_or_never();
    }

    /// Loses an object.
    pub fn remove_now(&self, key: &str) {
        let _ = self.inner.delete(&Path::from(key)).now_or_never();
    }

    /// Whether an object's first bytes are these.
    pub fn begins_with(&self, key: &str, bytes: &[u8]) -> bool {
        self.read_now(key).is_some_and(|read| read.starts_with(bytes))
    }

    /// Flips a bit of an object; false if it has none such.
    pub fn flip_bit(&self, key: &str, bit: u64) -> bool {
        let Some(mut bytes) = self.read_now(key) else { return false };
        let Some(byte) = usize::try_from(bit / 8).ok().and_then(|at| bytes.get_mut(at)) else { return false };
        *byte ^= 1 << (bit % 8);
        self.write_now(key, bytes);
        true
    }

    fn ask<T: Send + 'static>(&self, deed: impl Future<Output = Result<T>> + Send + 'static) -> Answer<T> {
        self.send(deed, |_, outcome| outcome)
    }

    /// Decides what becomes of a request, and sends it off. `twist` may change its answer.
    fn send<T: Send + 'static>(
        &self,
        deed: impl Future<Output = Result<T>> + Send + 'static,
        twist: impl FnOnce(&mut Random, Result<T>) -> Result<T> + Send + 'static,
    ) -> Answer<T> {
        let slot = Arc::new(Mutex::new(None));
        let network = &mut *self.network.lock();
        let Rates { refused, answer_lost, slow, .. } = network.rates;
        let random = &mut network.random;
        let late = if random.chance(slow, 100) { 1 + random.below(SLOW_POLLS) } else { 0 };
        let refused = random.chance(refused, 100) || network.away;
        let lost = random.chance(answer_lost, 100);
        let mut own = Random::new(random.next_u64());
        let answer = slot.clone();
        let deed = async move {
            let outcome = match refused {
                true => Err(failure("503 slow down")),
                false => deed.await,
            };
            let outcome = twist(&mut own, outcome);
            let lost = lost && outcome.is_ok();
            *answer.lock() = Some(if lost { Err(failure("connection reset")) } else { outcome });
        };
        network.flying.push(Flying { due: network.now + late, deed: deed.boxed() });
        Answer { network: self.network.clone(), slot }
    }
}

impl Network {
    fn poll(&mut self) {
        self.now += 1;
        let now = self.now;
        // In the order in which they were sent, but for late ones.
        let due: Vec<Flying> = self.flying.extract_if(.., |flying| flying.due < now).collect();
        for flying in due {
            // The store in memory never waits.
            flying.deed.now_or_never();
        }
    }
}

impl<T> Future for Answer<T> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        self.network.lock().poll();
        match self.slot.lock().take() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

fn failure(text: &'static str) -> Error {
    Error::Generic { store: "simulated", source: text.into() }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("rates", &self.rates).field("now", &self.now).finish_non_exhaustive()
    }
}

impl fmt::Display for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimStore")
    }
}

#[async_trait::async_trait]
impl ObjectStore for SimStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let (inner, path) = (self.inner.clone(), path.clone());
        let (forgets, own_success) = {
            let network = &mut *self.network.lock();
            if network.ignores_conditions {
                options.mode = PutMode::Overwrite;
            }
            let forgets = network.forgets_one_in > 0 && network.random.chance(1, network.forgets_one_in);
            let conditional = options.mode == PutMode::Create;
            (forgets, if conditional { network.rates.own_success } else { 0 })
        };
        let key = path.to_string();
        let put = async move {
            match forgets {
                true => Ok(PutResult { e_tag: None, version: None, extensions: Default::default() }),
                false => inner.put_opts(&path, payload, options).await,
            }
        };
        let answer = self.send(put, move |random, outcome| match outcome {
            Ok(_) if random.chance(own_success, 100) => {
                Err(Error::AlreadyExists { path: key, source: "retried".into() })
            }
            outcome => outcome,
        });
        answer.await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let (inner, path) = (self.inner.clone(), path.clone());
        self.ask(async move { inner.put_multipart_opts(&path, options).await }).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let (inner, path) = (self.inner.clone(), path.clone());
        self.ask(async move { inner.get_opts(&path, options).await }).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let delete = move |path: Result<Path>| {
            let (store, inner) = (store.clone(), store.inner.clone());
            async move {
                let path = path?;
                let gone = path.clone();
                store.ask(async move { inner.delete(&gone).await }).await.map(|()| path)
            }
        };
        paths.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, inner, prefix) = (self.clone(), self.inner.clone(), prefix.cloned());
        let now = move || {
            let (inner, prefix) = (inner.clone(), prefix.clone());
            async move { inner.list(prefix.as_ref()).try_collect::<Vec<_>>().await }
        };
        // As over a network: a later page shows what was put after the first one was made.
        let pages = async move {
            let mut listed = store.ask(now()).await?;
            listed.sort_unstable_by(|a, b| a.location.cmp(&b.location));
            let split = store.network.lock().random.below(listed.len() as u64 + 1) as usize;
            if let Some(after) = listed.get(split).map(|meta| meta.location.clone()) {
                listed.truncate(split);
                let rest = store.ask(now()).await?;
                listed.extend(rest.into_iter().filter(|meta| meta.location >= after));
            }
            Ok(stream::iter(listed.into_iter().map(Ok)))
        };
        pages.try_flatten_stream().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (inner, prefix) = (self.inner.clone(), prefix.cloned());
        self.ask(async move { inner.list_with_delimiter(prefix.as_ref()).await }).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let (inner, from, to) = (self.inner.clone(), from.clone(), to.clone());
        self.ask(async move { inner.copy_opts(&from, &to, options).await }).await
    }
}
