//! How messages get into and out of the buffers of a stream: as prost does it, but room is made once for a whole message. Growing bit by bit, a batch
//! of 64 KiB was copied twice.

use prost::Message;
use std::marker::PhantomData;
use tonic::Status;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic_prost::{ProstCodec, ProstDecoder};

/// The codec of all services.
#[derive(Clone, Debug)]
pub struct Roomy<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Roomy<T, U> {
    fn default() -> Roomy<T, U> {
        Roomy(PhantomData)
    }
}

impl<T, U> Codec for Roomy<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = RoomyEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> RoomyEncoder<T> {
        RoomyEncoder(PhantomData)
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstCodec::<T, U>::default().decoder()
    }
}

/// Makes room, and writes.
#[derive(Debug)]
pub struct RoomyEncoder<T>(PhantomData<T>);

impl<T: Message> Encoder for RoomyEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buf.reserve(item.encoded_len());
        item.encode_raw(buf);
        Ok(())
    }
}
