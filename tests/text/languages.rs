//! Languages that are decided without any parser of the library: written by hand, byte by byte. A tests' constraint says
//! the same, and must allow the same.

/// A language as a machine over bytes. From every state that is given the text can be completed.
pub trait Language {
    /// Where the machine stands.
    type State: Clone;
    fn start(&self) -> Self::State;
    /// The state after a byte; `None`: no text of the language goes on so.
    fn step(&self, state: &Self::State, byte: u8) -> Option<Self::State>;
    /// Whether the text may end here.
    fn accepts(&self, state: &Self::State) -> bool;

    fn run(&self, state: &Self::State, bytes: &[u8]) -> Option<Self::State> {
        bytes.iter().try_fold(state.clone(), |state, &byte| self.step(&state, byte))
    }
}

/// The texts of a list.
pub struct Listed(pub Vec<String>);

impl Language for Listed {
    type State = Vec<u8>;
    fn start(&self) -> Vec<u8> {
        Vec::new()
    }
    fn step(&self, state: &Vec<u8>, byte: u8) -> Option<Vec<u8>> {
        let longer = [&state[..], &[byte]].concat();
        self.0.iter().any(|text| text.as_bytes().starts_with(&longer)).then_some(longer)
    }
    fn accepts(&self, state: &Vec<u8>) -> bool {
        self.0.iter().any(|text| text.as_bytes() == &state[..])
    }
}

/// `low` to `high` characters from U+4E00 to U+9FFF, each of three bytes: E4 B8 80 to E9 BF BF.
pub struct Ideographs {
    pub low: usize,
    pub high: usize,
}

impl Language for Ideographs {
    /// Whole characters, and the bytes of the one that is begun.
    type State = (usize, Vec<u8>);
    fn start(&self) -> Self::State {
        (0, Vec::new())
    }
    fn step(&self, (count, begun): &Self::State, byte: u8) -> Option<Self::State> {
        let fits = match begun[..] {
            [] => *count < self.high && (0xE4..=0xE9).contains(&byte),
            [0xE4] => (0xB8..=0xBF).contains(&byte),
            _ => (0x80..=0xBF).contains(&byte),
        };
        let mut begun = begun.clone();
        begun.push(byte);
        match begun.len() {
            _ if !fits => None,
            3 => Some((count + 1, Vec::new())),
            _ => Some((*count, begun)),
        }
    }
    fn accepts(&self, (count, begun): &Self::State) -> bool {
        begun.is_empty() && *count >= self.low
    }
}

/// A string of JSON with the short escapes only: any characters but quotation mark, backslash and control characters.
pub struct Quoted;

/// Where a [`Quoted`] stands.
#[derive(Clone, PartialEq)]
pub enum InQuoted {
    Before,
    Inside,
    Escaped,
    /// In a character: the least and the largest byte that may be next, and how many come after it.
    Character(u8, u8, u8),
    After,
}

impl Language for Quoted {
    type State = InQuoted;
    fn start(&self) -> InQuoted {
        InQuoted::Before
    }
    fn step(&self, state: &InQuoted, byte: u8) -> Option<InQuoted> {
        use InQuoted::*;
        Some(match (state, byte) {
            (Before, b'"') => Inside,
            (Inside, b'"') => After,
            (Inside, b'\\') => Escaped,
            (Escaped, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Inside,
            (Inside, 0x20..=0x7E) => Inside,
            // The table of well-formed UTF-8 in the Unicode standard.
            (Inside, 0xC2..=0xDF) => Character(0x80, 0xBF, 0),
            (Inside, 0xE0) => Character(0xA0, 0xBF, 1),
            (Inside, 0xED) => Character(0x80, 0x9F, 1),
            (Inside, 0xE1..=0xEF) => Character(0x80, 0xBF, 1),
            (Inside, 0xF0) => Character(0x90, 0xBF, 2),
            (Inside, 0xF1..=0xF3) => Character(0x80, 0xBF, 2),
            (Inside, 0xF4) => Character(0x80, 0x8F, 2),
            (&Character(low, high, after), byte) if (low..=high).contains(&byte) => match after {
                0 => Inside,
                _ => Character(0x80, 0xBF, after - 1),
            },
            _ => return None,
        })
    }
    fn accepts(&self, state: &InQuoted) -> bool {
        *state == InQuoted::After
    }
}

/// Round and square brackets that match, with an `x` in the innermost: no regular language.
pub struct Brackets;

impl Language for Brackets {
    /// What is open, and whether the `x` was there.
    type State = (Vec<u8>, bool);
    fn start(&self) -> Self::State {
        (Vec::new(), false)
    }
    fn step(&self, (open, turned): &Self::State, byte: u8) -> Option<Self::State> {
        let mut open = open.clone();
        match byte {
            b'(' | b'[' if !turned => open.push(byte),
            b'x' if !turned => return Some((open, true)),
            b')' if *turned && open.last() == Some(&b'(') => drop(open.pop()),
            b']' if *turned && open.last() == Some(&b'[') => drop(open.pop()),
            _ => return None,
        }
        Some((open, *turned))
    }
    fn accepts(&self, (open, turned): &Self::State) -> bool {
        *turned && open.is_empty()
    }
}

/// A JSON array of one to three booleans, with up to 40 blanks between its parts.
pub struct Booleans;

impl Language for Booleans {
    /// Values begun, the letters still to come of the last, blanks in a row, what was the last part.
    type State = (usize, &'static [u8], usize, u8);
    fn start(&self) -> Self::State {
        (0, b"", 0, b'^')
    }
    fn step(&self, &(values, letters, blanks, last): &Self::State, byte: u8) -> Option<Self::State> {
        if let Some((&next, rest)) = letters.split_first() {
            return (byte == next).then_some((values, rest, 0, last));
        }
        match (last, byte) {
            (b'^', b'[') => Some((0, b"", 0, b'[')),
            // Blanks stand between parts: before the first and after the last there are none.
            (b'[' | b',' | b'v', b' ' | b'\n' | b'\r' | b'\t') if blanks < 40 => {
                Some((values, letters, blanks + 1, last))
            }
            (b'[' | b',', b't') if values < 3 => Some((values + 1, b"rue", 0, b'v')),
            (b'[' | b',', b'f') if values < 3 => Some((values + 1, b"alse", 0, b'v')),
            (b'v', b',') if values < 3 => Some((values, b"", 0, b',')),
            (b'v', b']') => Some((values, b"", 0, b']')),
            _ => None,
        }
    }
    fn accepts(&self, &(_, letters, _, last): &Self::State) -> bool {
        letters.is_empty() && last == b']'
    }
}

/// `a*` and `b*` in turn with counts that are even: `(aa|bb)*c?`.
pub struct Pairs;

impl Language for Pairs {
    /// The letter that must come again, and whether `c` has come.
    type State = (Option<u8>, bool);
    fn start(&self) -> Self::State {
        (None, false)
    }
    fn step(&self, state: &Self::State, byte: u8) -> Option<Self::State> {
        match (state, byte) {
            ((Some(again), _), byte) => (*again == byte).then_some((None, false)),
            ((None, false), b'a' | b'b') => Some((Some(byte), false)),
            ((None, false), b'c') => Some((None, true)),
            _ => None,
        }
    }
    fn accepts(&self, state: &Self::State) -> bool {
        state.0.is_none()
    }
}
