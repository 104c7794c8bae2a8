//! One pass over a text that marks where verifiers have to look: 64 bytes at a time, as bit masks.
//!
//! Portable: byte comparisons that the compiler turns into vector code, then a multiplication that
//! gathers eight flags. It verifies nothing; a mark is only a reason to look.

/// Bytes per block; one bit each in a mask.
pub(super) const BLOCK: usize = 64;

/// Character classes of one block.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Masks {
    /// 0-9.
    pub(super) digit: u64,
    /// A-Z.
    pub(super) upper: u64,
    /// A-Z, a-z and every byte of a multi-byte character.
    pub(super) alpha: u64,
    /// `-` and `_`.
    pub(super) join: u64,
    /// `@`, `:` and `=`.
    pub(super) punct: u64,
}

/// Classes of block number `index` of `bytes`; behind the end, nothing is set.
pub(super) fn classify(bytes: &[u8], index: usize) -> Masks {
    let rest = bytes.get(index * BLOCK..).unwrap_or_default();
    match rest.first_chunk::<BLOCK>() {
        Some(block) => classify_block(block),
        // Behind the text nothing is set, so that every run ends at its last byte.
        None if rest.is_empty() => Masks::default(),
        None => {
            let mut block = [0; BLOCK];
            block[..rest.len()].copy_from_slice(rest);
            classify_block(&block)
        }
    }
}

fn classify_block(block: &[u8; BLOCK]) -> Masks {
    Masks {
        digit: gather(block, |b| b.wrapping_sub(b'0') < 10),
        upper: gather(block, |b| b.wrapping_sub(b'A') < 26),
        // Bit 0x20 folds case. Bytes of multi-byte characters count as letters: no anchor may stand inside `é`.
        alpha: gather(block, |b| (b | 0x20).wrapping_sub(b'a') < 26 || b >= 0x80),
        join: gather(block, |b| b == b'-' || b == b'_'),
        punct: gather(block, |b| b == b'@' || b == b':' || b == b'='),
    }
}

/// One bit per byte, lowest first. Multiplying eight flags of 0 or 1 by the sum of 2^(56-7k) puts
/// flag k at bit 56 + k.
#[inline(always)]
fn gather(block: &[u8; BLOCK], class: impl Fn(u8) -> bool) -> u64 {
    let mut flags = [0_u8; BLOCK];
    for (flag, byte) in flags.iter_mut().zip(block) {
        *flag = u8::from(class(*byte));
    }
    // Flags are 0 or 1: no product carries into the next bit, which any larger value would.
    let (eights, _) = flags.as_chunks::<8>();
    let gathered = |eight: &[u8; 8]| u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56;
    eights.iter().enumerate().fold(0, |mask, (k, eight)| mask | gathered(eight) << (8 * k))
}

/// Where to look, one bit per byte of a block.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Anchors {
    /// First digit of a run whose left neighbour is no letter.
    pub(super) number: u64,
    /// Of these: at least five digits within twenty bytes.
    pub(super) dense: u64,
    /// Upper-case start of a word.
    pub(super) capital: u64,
    /// A word that starts with one to three letters and a digit.
    pub(super) id: u64,
    /// Start of a run of at least 16 letters, digits, `-` and `_`.
    pub(super) long: u64,
    /// `@`, `:` and `=`.
    pub(super) punct: u64,
}

/// Anchors of a block from its classes, those of the block after it and the last bit of the block
/// before it.
pub(super) fn anchors(previous: &Masks, block: &Masks, next: &Masks) -> Anchors {
    // Two blocks wide, since a run may begin at the last byte of one and be long in the next.
    let wide = |f: fn(&Masks) -> u64| u128::from(f(block)) | u128::from(f(next)) << 64;
    let after = |f: fn(&Masks) -> u64| f(block) << 1 | f(previous) >> 63;
    let (digits, run) = (wide(|m| m.digit), wide(|m| m.digit | m.alpha | m.join));
    let after_alpha = after(|m| m.alpha);
    let after_digit = after(|m| m.digit);
    let number = block.digit & !after_digit & !after_alpha;
    let word_start = block.alpha & !after_alpha & !after_digit;
    // A digit within the three bytes behind the first letter: `GB29…`, `C01234567`, `F1…`.
    let digit_soon = (digits >> 1 | digits >> 2 | digits >> 3) as u64;
    // Doubling: four steps say of every byte at once whether sixteen of a run follow.
    let twice = run & run >> 1;
    let four = twice & twice >> 2;
    let eight = four & four >> 4;
    let sixteen = (eight & eight >> 8) as u64;
    Anchors {
        number,
        dense: number & dense(digits, number),
        capital: block.upper & word_start,
        id: word_start & digit_soon,
        long: sixteen & !after(|m| m.digit | m.alpha | m.join),
        punct: block.punct,
    }
}

/// Of the bits in `starts`, those that are followed by at least four more digits within twenty bytes.
fn dense(digits: u128, mut starts: u64) -> u64 {
    let mut dense = 0;
    while starts != 0 {
        let bit = starts.trailing_zeros();
        starts &= starts - 1;
        // Five digits in twenty bytes: fewer are a date, a house number or nothing that is looked for.
        if ((digits >> bit) as u32 & 0xf_ffff).count_ones() >= 5 {
            dense |= 1 << bit;
        }
    }
    dense
}
