//! How a C library that is opened at run time is written down once: its types, constants and functions.
//!
//! From the one list comes the struct of function pointers that the backend calls, and a description in words from
//! which `tests/ascend` makes a C++ file that the real headers must agree with. So what is called and what is checked
//! cannot drift apart.
//!
//! A type bears the name it has in C, because a description is made of these names: `aclrtStream`, not `*mut c_void`.

/// A type of the library, as the headers must have it.
#[derive(Clone, Copy, Debug)]
pub struct Type {
    /// Its name in C.
    pub name: &'static str,
    /// Its size in bytes.
    pub size: usize,
}

/// A constant of the library.
#[derive(Clone, Copy, Debug)]
pub struct Constant {
    /// Its name in C.
    pub name: &'static str,
    /// Its value.
    pub value: i64,
    /// Whether older headers lack it.
    pub newer: bool,
}

/// A function of the library.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    /// Its name, which is its symbol.
    pub name: &'static str,
    /// The types of its parameters, written in Rust.
    pub parameters: &'static [&'static str],
    /// The type of what it returns, written in Rust.
    pub returns: &'static str,
    /// Whether the library is usable without it.
    pub optional: bool,
}

/// A struct that C code shares, field by field.
#[derive(Clone, Copy, Debug)]
pub struct Struct {
    /// Its name in C.
    pub name: &'static str,
    /// Its size in bytes.
    pub size: usize,
    /// Its fields with the places where they begin.
    pub fields: &'static [(&'static str, usize)],
}

/// Structs under their names in C, with the size that they must have, and `STRUCTS` that lists their fields.
macro_rules! structs {
    ($($(#[$doc:meta])* $name:ident($size:literal) { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[allow(non_camel_case_types)]
            #[repr(C)]
            #[derive(Clone, Copy, Debug)]
            pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }

            const _: () = assert!(size_of::<$name>() == $size);
        )*
        /// The structs of this table.
        pub const STRUCTS: &[$crate::backend::ascend::table::Struct] = &[$($crate::backend::ascend::table::Struct {
            name: stringify!($name),
            size: size_of::<$name>(),
            fields: &[$((stringify!($field), std::mem::offset_of!($name, $field))),*],
        }),*];
    };
}

/// Types under their names in C: the aliases, and `TYPES` that lists them.
macro_rules! types {
    ($($(#[$doc:meta])* $name:ident = $type:ty;)*) => {
        $($(#[$doc])* #[allow(non_camel_case_types)] pub type $name = $type;)*
        /// The types of this table with their sizes.
        pub const TYPES: &[$crate::backend::ascend::table::Type] = &[$($crate::backend::ascend::table::Type {
            name: stringify!($name),
            size: size_of::<$name>(),
        }),*];
    };
}

/// Constants under their names in C, and `CONSTANTS` that lists them. `newer` marks what older headers lack.
macro_rules! constants {
    (@newer) => { false };
    (@newer newer) => { true };
    ($($(#[$doc:meta])* $([$newer:ident])? $name:ident: $type:ty = $value:expr;)*) => {
        $($(#[$doc])* pub const $name: $type = $value;)*
        /// The constants of this table.
        pub const CONSTANTS: &[$crate::backend::ascend::table::Constant] =
            &[$($crate::backend::ascend::table::Constant {
                name: stringify!($name),
                value: $name as i64,
                newer: $crate::backend::ascend::table::constants!(@newer $($newer)?),
            }),*];
    };
}

/// A library's functions: a struct of function pointers with `load`, and `FUNCTIONS` that lists them. Without a
/// `needed` function the library is not used; an `optional` one is `None` where the library has none.
macro_rules! functions {
    (@slot needed $type:ty) => { $type };
    (@slot optional $type:ty) => { Option<$type> };
    (@take needed $found:expr, $name:expr, $missing:expr) => {
        match $found {
            Some(function) => function,
            None => return Err($missing),
        }
    };
    (@take optional $found:expr, $name:expr, $missing:expr) => { $found };
    (@is optional) => { true };
    (@is needed) => { false };
    (
        $(#[$doc:meta])* $table:ident;
        $($kind:ident $name:ident($($parameter:ty),* $(,)?) -> $returns:ty;)*
    ) => {
        $(#[$doc])*
        #[allow(non_snake_case)]
        #[derive(Clone, Copy, Debug)]
        pub struct $table {
            $(
                #[doc = concat!("`", stringify!($name), "`.")]
                pub $name: $crate::backend::ascend::table::functions!(
                    @slot $kind unsafe extern "C" fn($($parameter),*) -> $returns
                ),
            )*
        }

        impl $table {
            /// Looks every function up. The error lists the needed ones that the library lacks.
            ///
            /// # Safety
            /// `library` must be the one that this table describes: a symbol has no type.
            #[allow(non_snake_case)]
            pub unsafe fn load(library: &libloading::os::unix::Library) -> std::result::Result<Self, Vec<&'static str>> {
                let mut missing = Vec::new();
                $(
                    // SAFETY: the caller says that the symbol of this name has this type.
                    let $name = unsafe {
                        library.get::<unsafe extern "C" fn($($parameter),*) -> $returns>(stringify!($name))
                    }.ok().map(|symbol| *symbol);
                    let optional = $crate::backend::ascend::table::functions!(@is $kind);
                    if $name.is_none() && !optional {
                        missing.push(stringify!($name));
                    }
                )*
                if !missing.is_empty() {
                    return Err(missing);
                }
                Ok($table {
                    $($name: $crate::backend::ascend::table::functions!(
                        @take $kind $name, stringify!($name), missing
                    ),)*
                })
            }
        }

        /// The functions of this table.
        pub const FUNCTIONS: &[$crate::backend::ascend::table::Function] =
            &[$($crate::backend::ascend::table::Function {
                name: stringify!($name),
                parameters: &[$(stringify!($parameter)),*],
                returns: stringify!($returns),
                optional: $crate::backend::ascend::table::functions!(@is $kind),
            }),*];
    };
}

pub(crate) use {constants, functions, structs, types};
