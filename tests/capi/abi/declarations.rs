//! What `include/aquila.h` declares, read from its text. cbindgen writes it in one regular form, so a few lines
//! are enough; what they do not understand is a failure, not left out.

/// A struct with its fields in order.
pub struct Struct {
    pub name: String,
    pub fields: Vec<Field>,
}

/// A field: its type as the header writes it, an array with its length ("char [504]").
pub struct Field {
    pub name: String,
    pub kind: String,
}

/// All that a program can see of the header.
#[derive(Default)]
pub struct Declarations {
    pub constants: Vec<String>,
    pub structs: Vec<Struct>,
    /// Names of types that are numbers, such as aquila_status.
    pub numbers: Vec<String>,
    /// Names of handles: structs without fields.
    pub handles: Vec<String>,
    /// Names of pointers to functions.
    pub callbacks: Vec<String>,
    /// Each function with its declaration up to the semicolon, without AQUILA_API.
    pub functions: Vec<(String, String)>,
}

impl Declarations {
    pub fn of(header: &str) -> Declarations {
        let text = without_comments(header);
        let mut found = Declarations::default();
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        while let Some(line) = lines.next() {
            if let Some(definition) = line.strip_prefix("#define ") {
                let (name, value) = definition.split_once(' ').unwrap_or((definition, ""));
                let (of_the_file, a_number) = (["AQUILA_H", "AQUILA_API"].contains(&name), !value.is_empty());
                assert!(of_the_file || (name.starts_with("AQUILA_") && a_number), "{line}");
                if !of_the_file {
                    found.constants.push(name.to_owned());
                }
            } else if line.starts_with("typedef ") && line.ends_with('{') {
                let name = line.split_whitespace().nth(2).expect("typedef struct NAME {").to_owned();
                let mut fields = Vec::new();
                for line in lines.by_ref().take_while(|line| !line.starts_with('}')) {
                    fields.push(field(line));
                }
                found.structs.push(Struct { name, fields });
            } else if line.starts_with("typedef ") || line.starts_with("AQUILA_API ") {
                let mut whole = line.to_owned();
                while !whole.ends_with(';') {
                    whole = format!("{whole} {}", lines.next().expect("a declaration ends"));
                }
                found.take(whole.trim_end_matches(';'));
            } else {
                let plain = line.starts_with('#') || ["extern \"C\" {", "}"].contains(&line);
                assert!(plain, "not understood in aquila.h: {line}");
            }
        }
        found
    }

    fn take(&mut self, declaration: &str) {
        if let Some(function) = declaration.strip_prefix("AQUILA_API ") {
            let name = function.split('(').next().and_then(|head| head.rsplit([' ', '*']).next());
            self.functions.push((name.expect("a name").to_owned(), function.to_owned()));
        } else if let Some((_, rest)) = declaration.split_once("(*") {
            self.callbacks.push(rest.split(')').next().expect("a name").to_owned());
        } else {
            let name = declaration.rsplit(' ').next().expect("a name").to_owned();
            let handle = declaration.starts_with("typedef struct ");
            if handle { &mut self.handles } else { &mut self.numbers }.push(name);
        }
    }
}

fn field(line: &str) -> Field {
    let line = line.strip_suffix(';').unwrap_or_else(|| panic!("a field of aquila.h on one line: {line}"));
    let (head, array) = line.find('[').map_or((line, ""), |at| line.split_at(at));
    let at = head.rfind([' ', '*']).expect("a type and a name") + 1;
    let kind = format!("{} {array}", head[..at].trim()).trim().to_owned();
    Field { name: head[at..].to_owned(), kind }
}

/// The header without what stands in comments, which may look like anything.
pub fn without_comments(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("/*") {
        kept += before;
        rest = after.split_once("*/").expect("a comment ends").1;
    }
    kept + rest
}

#[test]
fn every_form_of_a_declaration_is_understood() {
    let header = "/* text */\n#ifndef AQUILA_H\n#define AQUILA_H\n#define AQUILA_A (-1)\n\
        typedef struct aquila_h aquila_h;\ntypedef int32_t aquila_n;\n\
        typedef void (*aquila_fn)(aquila_n level,\n    void *user);\n\
        typedef struct aquila_s {\n    /** A. */\n    const char *const *a;\n    char b[5];\n} aquila_s;\n\
        AQUILA_API const char *aquila_f(struct aquila_h *h,\n    size_t n);\n#endif\n";
    let found = Declarations::of(header);
    assert_eq!((found.constants, found.handles), (vec!["AQUILA_A".into()], vec!["aquila_h".into()]));
    assert_eq!((found.numbers, found.callbacks), (vec!["aquila_n".into()], vec!["aquila_fn".into()]));
    let [Struct { fields, .. }] = &found.structs[..] else { panic!() };
    let fields: Vec<_> = fields.iter().map(|f| (f.name.as_str(), f.kind.as_str())).collect();
    assert_eq!(fields, [("a", "const char *const *"), ("b", "char [5]")]);
    let (name, declaration) = &found.functions[0];
    assert_eq!((name.as_str(), declaration.starts_with("const char *aquila_f(")), ("aquila_f", true));
}
