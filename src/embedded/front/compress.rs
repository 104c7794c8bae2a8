//! Compression of whole bodies: `Content-Encoding` of requests, `Accept-Encoding` of answers, and ClickHouse's own
//! blocks for `compress=1`. Formats only; nothing here knows HTTP or the engine.

use std::io::{self, Read, Write as _};

use super::native_block;

/// Fast levels: the peer is on this machine.
const ZSTD_LEVEL: i32 = 1;

/// An HTTP content coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// lz4 frame, ClickHouse's addition to the registered codings.
    Lz4,
    /// RFC 8878.
    Zstd,
    /// RFC 1952.
    Gzip,
    /// zlib, RFC 1950.
    Deflate,
}

impl Encoding {
    const ALL: [Self; 4] = [Self::Lz4, Self::Zstd, Self::Gzip, Self::Deflate];

    /// Name in HTTP headers.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }

    /// The coding of that name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|encoding| encoding.name().eq_ignore_ascii_case(name.trim()))
    }

    /// The first of ours that an `Accept-Encoding` list names and does not forbid by `q=0`.
    pub(crate) fn accepted(list: &str) -> Option<Self> {
        let offered = |encoding: &Self| {
            list.split(',').any(|item| {
                let (name, quality) = item.split_once(';').unwrap_or((item, ""));
                let forbidden = ["q=0", "q=0.0", "q=0.00", "q=0.000"].contains(&quality.trim());
                Self::parse(name) == Some(*encoding) && !forbidden
            })
        };
        Self::ALL.into_iter().find(offered)
    }

    /// Decodes a body while it is read.
    ///
    /// # Errors
    /// The decoder could not be set up.
    pub(crate) fn decoder<'r>(self, source: impl Read + 'r) -> io::Result<Box<dyn Read + 'r>> {
        Ok(match self {
            Self::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(source)),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::new(source)?),
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(source)),
            Self::Deflate => Box::new(flate2::read::ZlibDecoder::new(source)),
        })
    }
}

/// Encodes an answer piece by piece into bytes that can be sent at once.
pub(crate) enum Encoder {
    /// As it is.
    Plain,
    /// ClickHouse's blocks.
    Native,
    /// lz4 frame.
    Lz4(Box<lz4_flex::frame::FrameEncoder<Vec<u8>>>),
    /// zstd.
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    /// gzip.
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    /// zlib.
    Deflate(flate2::write::ZlibEncoder<Vec<u8>>),
}

impl Encoder {
    /// An encoder for the coding, or one that changes nothing.
    ///
    /// # Errors
    /// The encoder could not be set up.
    pub(crate) fn new(encoding: Option<Encoding>) -> io::Result<Self> {
        let level = flate2::Compression::fast();
        Ok(match encoding {
            None => Self::Plain,
            Some(Encoding::Lz4) => Self::Lz4(Box::new(lz4_flex::frame::FrameEncoder::new(Vec::new()))),
            Some(Encoding::Zstd) => Self::Zstd(zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?),
            Some(Encoding::Gzip) => Self::Gzip(flate2::write::GzEncoder::new(Vec::new(), level)),
            Some(Encoding::Deflate) => Self::Deflate(flate2::write::ZlibEncoder::new(Vec::new(), level)),
        })
    }

    /// Takes a piece and gives what is ready to be sent; empty pieces give nothing.
    ///
    /// # Errors
    /// The encoder's.
    pub(crate) fn push(&mut self, data: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        match self {
            _ if data.is_empty() => {}
            Self::Plain => out.extend_from_slice(data),
            Self::Native => native_block::encode(data, &mut out),
            Self::Lz4(encoder) => {
                encoder.write_all(data)?;
                encoder.flush()?;
                out = std::mem::take(encoder.get_mut());
            }
            Self::Zstd(encoder) => {
                encoder.write_all(data)?;
                encoder.flush()?;
                out = std::mem::take(encoder.get_mut());
            }
            Self::Gzip(encoder) => {
                encoder.write_all(data)?;
                encoder.flush()?;
                out = std::mem::take(encoder.get_mut());
            }
            Self::Deflate(encoder) => {
                encoder.write_all(data)?;
                encoder.flush()?;
                out = std::mem::take(encoder.get_mut());
            }
        }
        Ok(out)
    }

    /// The coding's end mark.
    ///
    /// # Errors
    /// The encoder's.
    pub(crate) fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Plain | Self::Native => Ok(Vec::new()),
            Self::Lz4(encoder) => encoder.finish().map_err(io::Error::other),
            Self::Zstd(encoder) => encoder.finish(),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Deflate(encoder) => encoder.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_coding_is_read_back_piece_by_piece() {
        let text = b"the chain of custody ".repeat(5000);
        for encoding in Encoding::ALL {
            let mut encoder = Encoder::new(Some(encoding)).expect("set up");
            let mut sent = Vec::new();
            for piece in text.chunks(30_000) {
                sent.extend(encoder.push(piece).expect("push"));
            }
            sent.extend(encoder.finish().expect("finish"));
            assert!(sent.len() < text.len() / 4, "{encoding:?}");
            let mut read = Vec::new();
            encoding.decoder(&sent[..]).expect("set up").read_to_end(&mut read).expect("decode");
            assert_eq!(read, text, "{encoding:?}");
        }
    }

    #[test]
    fn damaged_bodies_are_errors() {
        for encoding in Encoding::ALL {
            let mut read = Vec::new();
            let result = encoding.decoder(&b"this is no such stream, whatever the coding"[..]);
            assert!(result.and_then(|mut decoder| decoder.read_to_end(&mut read)).is_err(), "{encoding:?}");
        }
    }

    #[test]
    fn accept_encoding_is_a_list_with_qualities() {
        let check = |list, expected| assert_eq!(Encoding::accepted(list), expected, "{list}");
        check("", None);
        check("br", None);
        check("gzip, deflate", Some(Encoding::Gzip));
        check("gzip;q=0.5, LZ4 ;q=1", Some(Encoding::Lz4));
        check("zstd;q=0, gzip", Some(Encoding::Gzip));
        check("lz4x", None);
    }
}
