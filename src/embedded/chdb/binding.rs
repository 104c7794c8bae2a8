//! The C symbols of `libchdb.so`, looked up at run time; no header, no bindgen, no link-time dependency.
//!
//! Names and signatures are those of `chdb.h` 26.7. Only what [`super::connection`] calls is listed, and nothing else
//! may call it.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};
use std::path::Path;

use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL};

/// `chdb_connection`: one opaque handle.
pub(super) type RawConnection = *mut c_void;
/// `chdb_result *`.
pub(super) type RawResult = *mut c_void;
/// `chdb_insert_stream`.
pub(super) type RawInsert = *mut c_void;
/// Query with parameters: connection, SQL, format, names, values, each with its length, and how many.
pub(super) type QueryWithParams = unsafe extern "C" fn(
    RawConnection,
    *const c_char,
    usize,
    *const c_char,
    usize,
    *const *const c_char,
    *const usize,
    *const *const c_char,
    *const usize,
    usize,
) -> RawResult;

macro_rules! symbols {
    ($( $name:ident : $type:ty ),* $(,)?) => {
        /// The symbols in use, valid for the life of the process because the library is never closed.
        #[derive(Debug)]
        pub(super) struct Symbols { $( pub(super) $name: $type, )* }

        impl Symbols {
            /// Loads the library for good.
            ///
            /// # Errors
            /// The dynamic loader's message, or the first symbol that is missing.
            pub(super) fn load(path: &Path) -> Result<Self, libloading::Error> {
                // SAFETY: loading runs the library's initialisers; the file is the one whose checksum was verified or
                // that the user named. Each symbol is given the type its C declaration has.
                unsafe {
                    let library = Library::open(Some(path), RTLD_LAZY | RTLD_LOCAL)?;
                    let symbols = Self { $( $name: *library.get(concat!(stringify!($name), "\0"))?, )* };
                    // Closing it while the engine's threads run is a crash.
                    std::mem::forget(library);
                    Ok(symbols)
                }
            }
        }
    };
}

symbols! {
    chdb_set_signal_handlers_enabled: unsafe extern "C" fn(c_int),
    chdb_version: unsafe extern "C" fn() -> *const c_char,
    chdb_connect: unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut RawConnection,
    chdb_close_conn: unsafe extern "C" fn(*mut RawConnection),
    chdb_query_with_params_n: QueryWithParams,
    chdb_stream_query_with_params_n: QueryWithParams,
    chdb_stream_fetch_result: unsafe extern "C" fn(RawConnection, RawResult) -> RawResult,
    chdb_stream_cancel_query: unsafe extern "C" fn(RawConnection, RawResult),
    chdb_stream_insert_n: unsafe extern "C" fn(RawConnection, *const c_char, usize, *const c_char, usize) -> RawInsert,
    chdb_stream_append: unsafe extern "C" fn(RawInsert, *const c_void, usize) -> c_int,
    chdb_stream_done: unsafe extern "C" fn(RawInsert) -> RawResult,
    chdb_stream_cancel_insert: unsafe extern "C" fn(RawInsert),
    chdb_stream_insert_error: unsafe extern "C" fn(RawInsert) -> *const c_char,
    chdb_destroy_insert_stream: unsafe extern "C" fn(RawInsert),
    chdb_result_buffer: unsafe extern "C" fn(RawResult) -> *mut c_char,
    chdb_result_length: unsafe extern "C" fn(RawResult) -> usize,
    chdb_result_elapsed: unsafe extern "C" fn(RawResult) -> f64,
    chdb_result_rows_read: unsafe extern "C" fn(RawResult) -> u64,
    chdb_result_rows_written: unsafe extern "C" fn(RawResult) -> u64,
    chdb_result_bytes_written: unsafe extern "C" fn(RawResult) -> u64,
    chdb_result_storage_rows_read: unsafe extern "C" fn(RawResult) -> u64,
    chdb_result_storage_bytes_read: unsafe extern "C" fn(RawResult) -> u64,
    chdb_result_error: unsafe extern "C" fn(RawResult) -> *const c_char,
    chdb_destroy_query_result: unsafe extern "C" fn(RawResult),
}
