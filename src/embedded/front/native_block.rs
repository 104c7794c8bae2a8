//! ClickHouse's compressed blocks, used by `decompress=1` in requests and `compress=1` in answers.
//!
//! `[CityHash128 v1.0.2 of the rest: 16 B][method: 1][bytes from method to end: 4 LE][raw bytes: 4 LE][payload]`.
//! Methods: 0x82 lz4 block, 0x90 zstd, 0x02 none. Source: ClickHouse `CompressionInfo.h`.

use std::io::{self, Read};

use super::failure::{Code, Failure};

const HASH_BYTES: usize = 16;
const HEADER_BYTES: usize = 9;
/// Upper limit for one block, raw and compressed; clients send blocks of 1 MiB or less, servers refuse above 1 GiB.
pub(crate) const BLOCK_BYTES_MAX: usize = 128 << 20;
/// Raw bytes per block that [`encode`] makes, ClickHouse's `max_compress_block_size`.
const ENCODE_BYTES: usize = 1 << 20;

const LZ4: u8 = 0x82;
const ZSTD: u8 = 0x90;
const NONE: u8 = 0x02;

/// Decodes a stream of blocks. Errors carry a [`Failure`].
#[derive(Debug)]
pub(crate) struct Blocks<R> {
    source: R,
    raw: Vec<u8>,
    at: usize,
}

impl<R: Read> Blocks<R> {
    /// Reads blocks from `source`.
    pub(crate) fn new(source: R) -> Self {
        Self { source, raw: Vec::new(), at: 0 }
    }

    /// The next block, or false at a clean end.
    fn advance(&mut self) -> io::Result<bool> {
        let mut head = [0; HASH_BYTES + HEADER_BYTES];
        match fill(&mut self.source, &mut head)? {
            0 => return Ok(false),
            got if got < head.len() => return Err(truncated().into()),
            _ => {}
        }
        let (block, raw_bytes) = self.read_block(&head)?;
        let [method, ..] = block[..] else { return Err(truncated().into()) };
        self.raw = decompress(method, block.get(HEADER_BYTES..).unwrap_or_default(), raw_bytes)?;
        self.at = 0;
        Ok(true)
    }

    /// Header and payload with a hash that fits, and the raw size.
    fn read_block(&mut self, head: &[u8; HASH_BYTES + HEADER_BYTES]) -> io::Result<(Vec<u8>, usize)> {
        let [hash @ .., _, c0, c1, c2, c3, r0, r1, r2, r3] = head;
        let block_bytes = u32::from_le_bytes([*c0, *c1, *c2, *c3]) as usize;
        let raw_bytes = u32::from_le_bytes([*r0, *r1, *r2, *r3]) as usize;
        if !(HEADER_BYTES..=BLOCK_BYTES_MAX).contains(&block_bytes) || raw_bytes > BLOCK_BYTES_MAX {
            let sizes = format!("compressed block of {block_bytes} bytes for {raw_bytes} raw bytes is out of limits");
            return Err(Failure::new(Code::TooLargeSizeCompressed, sizes).into());
        }
        let mut block = head.get(HASH_BYTES..).unwrap_or_default().to_vec();
        let payload_bytes = block_bytes - HEADER_BYTES;
        // Grows with what arrives: a forged size alone allocates nothing.
        if self.source.by_ref().take(payload_bytes as u64).read_to_end(&mut block)? < payload_bytes {
            return Err(truncated().into());
        }
        if hash != &checksum(&block)[..] {
            return Err(Failure::new(Code::ChecksumDoesntMatch, "checksum of a compressed block doesn't match").into());
        }
        Ok((block, raw_bytes))
    }
}

impl<R: Read> Read for Blocks<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.raw.len() && !out.is_empty() {
            if !self.advance()? {
                return Ok(0);
            }
        }
        let count = self.raw.get(self.at..).unwrap_or_default().read(out)?;
        self.at += count;
        Ok(count)
    }
}

/// Fills `out` as far as the source goes.
fn fill(source: &mut impl Read, out: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while let Some(rest) = out.get_mut(got..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

fn truncated() -> Failure {
    Failure::new(Code::CannotReadAllData, "cannot read all data: the body ends inside a compressed block")
}

/// ClickHouse stores the two halves of the hash in the other order.
fn checksum(block: &[u8]) -> [u8; HASH_BYTES] {
    cityhash_rs::cityhash_102_128(block).rotate_left(64).to_le_bytes()
}

fn decompress(method: u8, payload: &[u8], raw_bytes: usize) -> Result<Vec<u8>, Failure> {
    let damaged = |reason: String| Failure::new(Code::CannotDecompress, format!("cannot decompress a block: {reason}"));
    let raw = match method {
        LZ4 => lz4_flex::block::decompress(payload, raw_bytes).map_err(|e| damaged(e.to_string()))?,
        ZSTD => zstd::bulk::decompress(payload, raw_bytes).map_err(|e| damaged(e.to_string()))?,
        NONE => payload.to_vec(),
        other => {
            return Err(Failure::new(
                Code::UnknownCompressionMethod,
                format!("unknown compression method {other:#04x}"),
            ));
        }
    };
    if raw.len() == raw_bytes { Ok(raw) } else { Err(damaged(format!("{} bytes instead of {raw_bytes}", raw.len()))) }
}

/// Encodes bytes as lz4 blocks, appended to `out`.
pub(crate) fn encode(raw: &[u8], out: &mut Vec<u8>) {
    for chunk in raw.chunks(ENCODE_BYTES) {
        encode_block(LZ4, chunk, &lz4_flex::block::compress(chunk), out);
    }
}

/// One block around a payload. Both sizes are below 2 MiB for [`ENCODE_BYTES`] raw bytes.
fn encode_block(method: u8, raw: &[u8], payload: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend([0; HASH_BYTES]);
    out.push(method);
    out.extend(((payload.len() + HEADER_BYTES) as u32).to_le_bytes());
    out.extend((raw.len() as u32).to_le_bytes());
    out.extend(payload);
    let (hash, block) = out[start..].split_at_mut(HASH_BYTES);
    hash.copy_from_slice(&checksum(block));
}

#[cfg(test)]
#[path = "native_block/tests.rs"]
mod tests;
