use crate::{
    connection::Connection,
    wire::{Exception, confirm},
};
use posthaste_net::Output;

impl Connection {
    /// `confirm.select`: publishes are counted from 1, from here on.
    pub(crate) fn confirm_select(
        &mut self,
        number: u16,
        select: &confirm::Select,
        out: &mut Output,
    ) -> Result<(), Exception> {
        self.channel(number)?.next_publish_tag.get_or_insert(1);
        self.answer(number, select.no_wait, &confirm::SelectOk {}, out)
    }
}
