//! The cases of `--compare-kinds`.

use crate::bench::traffic::Traffic;
use gantry_proto::v2::MessageType;

/// Groups of the fan-out.
const FAN_OUT: u32 = 64;
/// The filter lets one message in so many through.
const ONE_IN: u32 = 100;

/// One kind of message, or one way to use the plain kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// The measure of all others.
    Plain,
    /// The plain load on a server that does nothing.
    EmptyHandler,
    Fifo {
        message_groups: u32,
    },
    /// All messages due at the same time, while consumers wait.
    Delay,
    Transaction,
    /// A SQL filter that lets few messages of a backlog through.
    Selective,
    /// Many groups that read one topic.
    FanOut,
}

/// All but the two that every round begins with.
pub const OTHERS: [Case; 7] = [
    Case::Fifo { message_groups: 1 },
    Case::Fifo { message_groups: 100 },
    Case::Fifo { message_groups: 10_000 },
    Case::Delay,
    Case::Transaction,
    Case::Selective,
    Case::FanOut,
];

impl Case {
    pub fn name(self) -> String {
        match self {
            Case::Plain => "plain".to_owned(),
            Case::EmptyHandler => "plain, empty handler".to_owned(),
            Case::Fifo { message_groups: 1 } => "fifo, 1 message group".to_owned(),
            Case::Fifo { message_groups } => format!("fifo, {message_groups} message groups"),
            Case::Delay => "delay, all due at once".to_owned(),
            Case::Transaction => "transaction, committed".to_owned(),
            Case::Selective => format!("SQL filter, 1 of {ONE_IN}"),
            Case::FanOut => format!("fan-out to {FAN_OUT} groups"),
        }
    }

    /// What is sent; delayed messages at the time that is given.
    pub fn traffic(self, deliver_at_ms: u64) -> Traffic {
        match self {
            Case::Plain | Case::EmptyHandler | Case::FanOut => Traffic::Normal,
            Case::Fifo { message_groups } => Traffic::Fifo { message_groups },
            Case::Delay => Traffic::Delay { at_ms: deliver_at_ms },
            Case::Transaction => Traffic::Transaction,
            Case::Selective => Traffic::Selective { one_in: ONE_IN },
        }
    }

    /// What the topic is for.
    pub fn message_type(self) -> MessageType {
        self.traffic(0).message_type()
    }

    /// Consumer groups.
    pub fn groups(self) -> usize {
        if self == Case::FanOut { FAN_OUT as usize } else { 1 }
    }

    /// Sends for so many messages: a fan-out gives each to all groups.
    pub fn sends(self, messages: u64) -> u64 {
        if self == Case::FanOut { messages.div_ceil(u64::from(FAN_OUT)) } else { messages }
    }

    /// Which part of a send belongs to one delivered message. None for the filter: there the backlog is not what is measured.
    pub fn sends_per_delivery(self) -> Option<f64> {
        match self {
            Case::Selective => None,
            Case::FanOut => Some(1.0 / f64::from(FAN_OUT)),
            _ => Some(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fan_out_delivers_as_many_messages_as_the_others() {
        assert_eq!((Case::Plain.sends(20_000), Case::FanOut.sends(20_000), Case::FanOut.sends(1)), (20_000, 313, 1));
        assert!((Case::FanOut.sends(20_000) * Case::FanOut.groups() as u64).abs_diff(20_000) < 64);
    }

    #[test]
    fn topics_are_made_for_what_is_sent() {
        for case in OTHERS {
            assert_eq!(case.message_type(), case.traffic(1).message_type());
        }
        assert_eq!(Case::Delay.message_type(), MessageType::Delay);
    }
}
