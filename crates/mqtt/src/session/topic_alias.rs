//! Topic aliases, section 3.3.2.3.4, in both directions. They live as long as the connection.

use std::num::NonZeroU16;

use crate::wire::{ByteString, Publish};

use super::fault::Fault;

/// Aliases that the client has set up.
#[derive(Debug)]
pub(super) struct InboundAliases {
    maximum: u16,
    /// The topic name of alias `index + 1`; grows up to `maximum` as aliases are used.
    topic_names: Vec<Option<ByteString>>,
}

impl InboundAliases {
    pub(super) fn new(maximum: u16) -> Self {
        Self { maximum, topic_names: Vec::new() }
    }

    /// Replaces the alias of a message by its topic name, or learns it.
    pub(super) fn resolve(&mut self, publish: &mut Publish) -> Result<(), Fault> {
        let Some(alias) = publish.properties.topic_alias.take() else { return Ok(()) };
        let alias = alias.get();
        if alias > self.maximum {
            return Err(Fault::TopicAliasInvalid(alias)); // [MQTT-3.3.2-9]
        }
        let index = usize::from(alias) - 1;
        if publish.topic_name.is_empty() {
            let known = self.topic_names.get(index).and_then(Option::clone);
            publish.topic_name = known.ok_or(Fault::TopicAliasUnknown(alias))?;
            return Ok(());
        }
        if self.topic_names.len() <= index {
            self.topic_names.resize(index + 1, None);
        }
        // A copy: a slice would keep the whole read buffer alive as long as the alias.
        self.topic_names[index] = Some(ByteString::from(&*publish.topic_name));
        Ok(())
    }
}

/// Aliases that the server has set up.
///
/// A table with one place per topic name, found by its hash: a name takes the place of another one that
/// hashes to it. So it needs no bookkeeping of use, and follows a client's changing topics.
#[derive(Debug)]
pub(super) struct OutboundAliases {
    topic_names: Vec<Option<ByteString>>,
}

impl OutboundAliases {
    pub(super) fn new(maximum: u16) -> Self {
        Self { topic_names: vec![None; usize::from(maximum)] }
    }

    pub(super) fn is_enabled(&self) -> bool {
        !self.topic_names.is_empty()
    }

    /// Gives the message an alias, and drops its topic name if the client knows the alias.
    pub(super) fn apply(&mut self, publish: &mut Publish) {
        const PROPERTY_LEN: usize = 3;
        if publish.topic_name.len() <= PROPERTY_LEN || !self.is_enabled() {
            return;
        }
        let index = (fnv1a(publish.topic_name.as_bytes()) % self.topic_names.len() as u64) as usize;
        publish.properties.topic_alias = NonZeroU16::new(index as u16 + 1);
        if self.topic_names[index].as_ref() == Some(&publish.topic_name) {
            publish.topic_name = ByteString::new();
        } else {
            self.topic_names[index] = Some(ByteString::from(&*publish.topic_name));
        }
    }

    /// Forgets the alias of this message, because the message will be sent without introducing it.
    pub(super) fn withdraw(&mut self, publish: &Publish) {
        if let Some(alias) = publish.properties.topic_alias {
            self.topic_names[usize::from(alias.get()) - 1] = None;
        }
    }
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
