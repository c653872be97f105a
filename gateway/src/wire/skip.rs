//! Where a JSON value ends, and that it is one (RFC 8259), without making anything of it.
//!
//! What a backend answers is passed on byte for byte, so that all that has to be known of a result is that it is JSON. Nearly all of its
//! bytes are in strings, and most of those are plain: they are looked at many at a time. What is found to be a value here is one for
//! every other reader too; the reverse is not promised.

use wide::u8x16;

/// How many bytes of a string are looked at together: one bit each of a word.
const BLOCK: usize = 64;

/// The place behind the value that begins at `at`, or behind white space there; `None` when none does.
pub(super) fn value(json: &[u8], mut at: usize) -> Option<usize> {
    // What closes each object and array that is open.
    let mut open: Vec<u8> = Vec::new();
    loop {
        at = white_space(json, at);
        match *json.get(at)? {
            b'"' => at = string(json, at + 1)?,
            b'{' => {
                at = white_space(json, at + 1);
                if json.get(at) == Some(&b'}') {
                    at += 1;
                } else {
                    at = key(json, at)?;
                    open.push(b'}');
                    continue;
                }
            }
            b'[' => {
                at = white_space(json, at + 1);
                if json.get(at) == Some(&b']') {
                    at += 1;
                } else {
                    open.push(b']');
                    continue;
                }
            }
            b't' => at = word(json, at, b"true")?,
            b'f' => at = word(json, at, b"false")?,
            b'n' => at = word(json, at, b"null")?,
            _ => at = number(json, at)?,
        }
        loop {
            let Some(&closing) = open.last() else {
                return Some(at);
            };
            at = white_space(json, at);
            match *json.get(at)? {
                b',' if closing == b'}' => {
                    at = key(json, white_space(json, at + 1))?;
                    break;
                }
                b',' => {
                    at += 1;
                    break;
                }
                byte if byte == closing => {
                    at += 1;
                    open.pop();
                }
                _ => return None,
            }
        }
    }
}

/// The place of the first byte from `at` on that is no white space.
pub(super) fn white_space(json: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\n' | b'\r') = json.get(at) {
        at += 1;
    }
    at
}

/// The place behind the key of an object at `at` and its colon.
fn key(json: &[u8], at: usize) -> Option<usize> {
    let opening = json.get(at)?;
    let at = (*opening == b'"').then(|| string(json, at + 1))??;
    let at = white_space(json, at);
    (json.get(at) == Some(&b':')).then_some(at + 1)
}

/// The place behind the closing quotation mark of the string whose first byte is at `at`.
///
/// No branch depends on where the usual escapes are. Text that holds JSON has one every few bytes, at places that no processor foresees.
pub(super) fn string(json: &[u8], mut at: usize) -> Option<usize> {
    let mut carried = 0;
    loop {
        // Behind the end stand zeros: control characters, at which no string goes on.
        let mut last = [0; BLOCK];
        let rest = json.get(at..)?;
        let block = match rest.first_chunk() {
            Some(block) => block,
            None => {
                last.get_mut(..rest.len())?.copy_from_slice(rest);
                &last
            }
        };
        let bits = Bits::of(block);
        let escaped = escaped(bits.backslashes, &mut carried);
        let ends = bits.quotes & !escaped;
        let inside = ends.wrapping_sub(1) & !ends;
        let escapes = escaped & inside;
        if bits.controls & inside != 0 {
            return None;
        }
        // Most escapes are these three, two of which are known already.
        let usual = bits.quotes | bits.backslashes | bits.line_ends;
        if escapes & !usual != 0 && escapes & !escape_letters(block) != 0 {
            return None;
        }
        let mut unicode = if escapes & !usual == 0 {
            0
        } else {
            escapes & all(block, b'u')
        };
        while unicode != 0 {
            let digits = at + unicode.trailing_zeros() as usize + 1;
            if !json.get(digits..digits + 4)?.iter().all(u8::is_ascii_hexdigit) {
                return None;
            }
            unicode &= unicode - 1;
        }
        if ends != 0 {
            return Some(at + ends.trailing_zeros() as usize + 1);
        }
        at += BLOCK;
    }
}

/// What the bytes of a block are, the first the lowest bit.
struct Bits {
    quotes: u64,
    backslashes: u64,
    /// Control characters, which no string holds.
    controls: u64,
    /// The letter `n`, which behind a backslash ends a line.
    line_ends: u64,
}

impl Bits {
    fn of(block: &[u8; BLOCK]) -> Self {
        let control = u8x16::splat(0x1f);
        Self {
            quotes: all(block, b'"'),
            backslashes: all(block, b'\\'),
            controls: bits(block, |part| part.min(control).simd_eq(part)),
            line_ends: all(block, b'n'),
        }
    }
}

/// The bytes that may stand behind a backslash.
fn escape_letters(block: &[u8; BLOCK]) -> u64 {
    let is = |part: u8x16, letter: &u8| part.simd_eq(u8x16::splat(*letter));
    bits(block, |part| {
        let letters = br#""\/bfnrtu"#.iter();
        letters.fold(u8x16::splat(0), |found, letter| found | is(part, letter))
    })
}

/// The bytes that are `byte`.
fn all(block: &[u8; BLOCK], byte: u8) -> u64 {
    let byte = u8x16::splat(byte);
    bits(block, |part| part.simd_eq(byte))
}

/// A bit for each byte of `block` that `test` finds, the first the lowest.
fn bits(block: &[u8; BLOCK], test: impl Fn(u8x16) -> u8x16) -> u64 {
    let (parts, _) = block.as_chunks::<16>();
    let join = |bits: u64, part: &[u8; 16]| bits << 16 | u64::from(test(u8x16::new(*part)).to_bitmask());
    parts.iter().rev().fold(0, join)
}

/// The bytes behind a backslash that is not itself behind one. `carried` is such a byte at the beginning of the block, and afterwards of
/// the next. The sum carries through each row of backslashes, so that its end tells whether the row's length is odd (simdjson, "Parsing
/// Gigabytes of JSON per Second", 3.1.1).
fn escaped(backslashes: u64, carried: &mut u64) -> u64 {
    const EVEN: u64 = 0x5555_5555_5555_5555;
    let backslashes = backslashes & !*carried;
    let behind = backslashes << 1 | *carried;
    let odd_starts = backslashes & !EVEN & !behind;
    let (rows, overflow) = odd_starts.overflowing_add(backslashes);
    *carried = u64::from(overflow);
    (EVEN ^ rows << 1) & behind
}

fn word(json: &[u8], at: usize, word: &[u8]) -> Option<usize> {
    json.get(at..)?.starts_with(word).then_some(at + word.len())
}

fn number(json: &[u8], mut at: usize) -> Option<usize> {
    let digits = |at: usize| {
        let rest = json.get(at..).unwrap_or_default();
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        (digits > 0).then_some(at + digits)
    };
    if json.get(at) == Some(&b'-') {
        at += 1;
    }
    at = match json.get(at)? {
        b'0' => at + 1,
        _ => digits(at)?,
    };
    if json.get(at) == Some(&b'.') {
        at = digits(at + 1)?;
    }
    if let Some(b'e' | b'E') = json.get(at) {
        at += 1;
        if let Some(b'+' | b'-') = json.get(at) {
            at += 1;
        }
        at = digits(at)?;
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(json: &str) -> bool {
        value(json.as_bytes(), 0).is_some_and(|end| white_space(json.as_bytes(), end) == json.len())
    }

    fn by_another_reader(json: &str) -> bool {
        serde_json::from_str::<serde::de::IgnoredAny>(json).is_ok()
    }

    #[test]
    fn what_another_reader_takes_for_json_is_json() {
        for json in [
            "0",
            "-0.5e+10",
            "1E9",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "+1",
            "true",
            "tru",
            "nulls",
            r#""""#,
            r#"""#,
            r#"" \u00e9 \" \\ \/ \b\f\n\r\t ""#,
            r#""\u12g4""#,
            r#""\u123""#,
            r#""\x""#,
            "\"\t\"",
            "\"\u{1f}\"",
            "\"\u{7f}\u{e9}\u{1f600}\"",
            "[]",
            "[ ]",
            "[1,]",
            "[,1]",
            "[1 2]",
            "[1, 2 ,[3]]",
            "{}",
            "{ }",
            r#"{"a":1}"#,
            r#"{"a":1,}"#,
            r#"{"a" 1}"#,
            r#"{a:1}"#,
            r#"{"a":}"#,
            r#"{"a":{"b":[{}]}}"#,
            "[1}",
            "{]",
            "",
            " ",
            "[",
            "{",
            r#"{"a""#,
            r#"{"a":"#,
            "[[[[",
            "]",
            r#""abcdefghijklmnopqrstuvwxyz"#,
            r#""abcdefghijklmnopqrstuvwxyz""#,
            r#""abcdefghijklmno\"#,
        ] {
            assert_eq!(whole(json), by_another_reader(json), "{json}");
        }
    }

    proptest! {
        #[test]
        fn any_text_of_jsons_own_characters_is_judged_alike(json in r#"[\[\]{}:,"\\ 01.eE+\-a-c\n]{0,24}"#) {
            prop_assert_eq!(whole(&json), by_another_reader(&json), "{}", json);
        }

        #[test]
        fn any_string_is_judged_alike_wherever_its_special_bytes_stand(text in r#"[ -~\\"\x00-\x20é]{0,70}"#) {
            let json = format!("\"{text}\"");
            prop_assert_eq!(whole(&json), by_another_reader(&json), "{}", json);
        }

        #[test]
        fn a_string_ends_where_it_ends(text in "\\PC{0,70}", behind in "\\PC{0,40}") {
            let json = serde_json::to_string(&text).unwrap();
            let end = json.len();
            prop_assert_eq!(value((json + &behind).as_bytes(), 0), Some(end));
        }
    }
}
