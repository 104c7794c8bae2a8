//! Safe handles over the C symbols: [`Engine`] > [`Connection`] > [`Answer`], [`Stream`], [`Insert`].
//!
//! A connection runs one statement at a time; here the borrow checker says so, because every statement borrows it
//! mutably. Does not parse SQL: what may be passed to which function is decided in [`super::super::front`].
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use super::binding::{RawConnection, RawInsert, RawResult, Symbols};

/// The engine's own message, `Code: N. DB::Exception: …` in most cases.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct EngineError(pub(crate) String);

/// The loaded library with the options every connection to its one data directory needs.
#[derive(Debug)]
pub(crate) struct Engine {
    symbols: Symbols,
    arguments: Vec<CString>,
}

impl Engine {
    /// Loads the library; opens nothing yet. `data_dir` must be given the same way every time (the engine takes `d`
    /// and `d/` for two directories).
    ///
    /// # Errors
    /// The dynamic loader's message, or a path with a NUL byte.
    pub(crate) fn load(library: &Path, data_dir: &Path, config: Option<&Path>) -> Result<Arc<Self>, EngineError> {
        let symbols = Symbols::load(library).map_err(|e| EngineError(e.to_string()))?;
        // SAFETY: takes an integer. SIGTERM and SIGINT stay ours.
        unsafe { (symbols.chdb_set_signal_handlers_enabled)(0) };
        let mut arguments = vec![CString::from(c"clickhouse"), argument("--path=", data_dir.as_os_str())?];
        if let Some(file) = config {
            arguments.push(argument("--config-file=", file.as_os_str())?);
        }
        Ok(Arc::new(Self { symbols, arguments }))
    }

    /// Version of the library, such as `26.7.3`.
    pub(crate) fn version(&self) -> String {
        // SAFETY: returns a static NUL-terminated string or NULL.
        unsafe { text((self.symbols.chdb_version)()) }.unwrap_or_default()
    }

    /// A new connection (about 0.1 ms once the first is open).
    ///
    /// # Errors
    /// The engine gives no reason; in practice the data directory cannot be written or another process has it open.
    pub(crate) fn connect(self: &Arc<Self>) -> Result<Connection, EngineError> {
        let mut argv: Vec<*mut c_char> = self.arguments.iter().map(|a| a.as_ptr().cast_mut()).collect();
        let argc = c_int::try_from(argv.len()).map_err(|e| EngineError(e.to_string()))?;
        // SAFETY: argv holds argc pointers to NUL-terminated strings that outlive the call; the engine only reads them.
        let handle = unsafe { (self.symbols.chdb_connect)(argc, argv.as_mut_ptr()) };
        let handle = NonNull::new(handle).ok_or_else(|| EngineError("the engine refused the connection".into()))?;
        Ok(Connection { engine: Arc::clone(self), handle })
    }
}

fn argument(name: &str, value: &OsStr) -> Result<CString, EngineError> {
    CString::new([name.as_bytes(), value.as_bytes()].concat()).map_err(|e| EngineError(format!("{name}: {e}")))
}

/// # Safety
/// `pointer` is NULL or a NUL-terminated string.
unsafe fn text(pointer: *const c_char) -> Option<String> {
    // SAFETY: by this function's contract.
    let text = (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned());
    text.filter(|message| !message.is_empty())
}

/// One connection with its own settings and current database. Close it (drop it) after an error: an open one keeps a
/// failed query alive and `KILL QUERY … SYNC` waits for it for ever.
#[derive(Debug)]
pub(crate) struct Connection {
    engine: Arc<Engine>,
    handle: NonNull<RawConnection>,
}

// SAFETY: the engine allows a connection to be used from any thread, one at a time; `&mut self` guarantees the latter.
unsafe impl Send for Connection {}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: the handle came from chdb_connect and is closed once.
        unsafe { (self.engine.symbols.chdb_close_conn)(self.handle.as_ptr()) };
    }
}

/// Names and values of `{name:Type}` parameters.
pub(crate) type Params = [(String, String)];

impl Connection {
    /// Runs a statement and keeps its whole answer in memory. Runs *several* statements if given several; the caller
    /// checks.
    ///
    /// # Errors
    /// The engine's exception.
    pub(crate) fn query(&mut self, sql: &[u8], format: &str, params: &Params) -> Result<Answer, EngineError> {
        let raw = self.run(self.engine.symbols.chdb_query_with_params_n, sql, format, params);
        Answer::take(&self.engine, raw)
    }

    /// Runs a SELECT whose answer comes block by block. Every block is formatted on its own.
    ///
    /// # Errors
    /// The engine's exception; other statements than SELECT are refused with code 36.
    pub(crate) fn stream(&mut self, sql: &[u8], format: &str, params: &Params) -> Result<Stream<'_>, EngineError> {
        let raw = self.run(self.engine.symbols.chdb_stream_query_with_params_n, sql, format, params);
        let query = Answer::take(&self.engine, raw)?;
        Ok(Stream { connection: self, query, ended: false })
    }

    /// Opens an INSERT; `sql` ends before `FORMAT`.
    ///
    /// # Errors
    /// The engine's exception, such as an unknown table.
    pub(crate) fn insert(&mut self, sql: &[u8], format: &str) -> Result<Insert<'_>, EngineError> {
        // SAFETY: both texts are passed with their lengths and copied by the engine.
        let raw = unsafe {
            (self.engine.symbols.chdb_stream_insert_n)(
                self.raw(),
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
            )
        };
        if raw.is_null() {
            return Err(EngineError("the engine refused the insert".into()));
        }
        let insert = Insert { connection: self, raw, finished: false };
        match insert.error() {
            Some(message) => Err(EngineError(message)),
            None => Ok(insert),
        }
    }

    fn raw(&self) -> RawConnection {
        // SAFETY: chdb_connect returns a pointer to the handle, valid until chdb_close_conn.
        unsafe { *self.handle.as_ptr() }
    }

    fn run(&self, function: super::binding::QueryWithParams, sql: &[u8], format: &str, params: &Params) -> RawResult {
        let names: Vec<*const c_char> = params.iter().map(|p| p.0.as_ptr().cast()).collect();
        let name_lengths: Vec<usize> = params.iter().map(|p| p.0.len()).collect();
        let values: Vec<*const c_char> = params.iter().map(|p| p.1.as_ptr().cast()).collect();
        let value_lengths: Vec<usize> = params.iter().map(|p| p.1.len()).collect();
        // SAFETY: every text is passed with its length, every list has params.len() entries, all outlive the call.
        unsafe {
            function(
                self.raw(),
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
                names.as_ptr(),
                name_lengths.as_ptr(),
                values.as_ptr(),
                value_lengths.as_ptr(),
                params.len(),
            )
        }
    }
}

/// What the engine counted for one statement or one block.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Stats {
    /// Rows of the result.
    pub(crate) result_rows: u64,
    /// Bytes of the formatted result.
    pub(crate) result_bytes: u64,
    /// Rows read from tables.
    pub(crate) read_rows: u64,
    /// Bytes read from tables.
    pub(crate) read_bytes: u64,
    /// Rows written.
    pub(crate) written_rows: u64,
    /// Bytes written.
    pub(crate) written_bytes: u64,
    /// Seconds in the engine.
    pub(crate) elapsed_seconds: f64,
}

/// A finished statement or block; its bytes stay in the engine's memory until dropped.
#[derive(Debug)]
pub(crate) struct Answer {
    engine: Arc<Engine>,
    raw: NonNull<std::ffi::c_void>,
}

// SAFETY: a result is an immutable buffer with counters, owned by this handle alone; reading it takes no lock.
unsafe impl Send for Answer {}
// SAFETY: as above; there is no operation that changes it but drop.
unsafe impl Sync for Answer {}

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: owned by this handle and destroyed once.
        unsafe { (self.engine.symbols.chdb_destroy_query_result)(self.raw.as_ptr()) };
    }
}

impl Answer {
    fn take(engine: &Arc<Engine>, raw: RawResult) -> Result<Self, EngineError> {
        let raw = NonNull::new(raw).ok_or_else(|| EngineError("the engine gave no answer".into()))?;
        let answer = Self { engine: Arc::clone(engine), raw };
        // SAFETY: the result is valid; the message belongs to it and is copied.
        match unsafe { text((engine.symbols.chdb_result_error)(raw.as_ptr())) } {
            Some(message) => Err(EngineError(message)),
            None => Ok(answer),
        }
    }

    /// The engine's counters.
    pub(crate) fn stats(&self) -> Stats {
        let (symbols, raw) = (&self.engine.symbols, self.raw.as_ptr());
        // SAFETY: the result is valid for as long as self; the functions only read it.
        unsafe {
            Stats {
                result_rows: (symbols.chdb_result_rows_read)(raw),
                result_bytes: (symbols.chdb_result_length)(raw) as u64,
                read_rows: (symbols.chdb_result_storage_rows_read)(raw),
                read_bytes: (symbols.chdb_result_storage_bytes_read)(raw),
                written_rows: (symbols.chdb_result_rows_written)(raw),
                written_bytes: (symbols.chdb_result_bytes_written)(raw),
                elapsed_seconds: (symbols.chdb_result_elapsed)(raw),
            }
        }
    }
}

impl AsRef<[u8]> for Answer {
    fn as_ref(&self) -> &[u8] {
        let (symbols, raw) = (&self.engine.symbols, self.raw.as_ptr());
        // SAFETY: buffer and length belong together and live as long as the result.
        unsafe {
            let (start, length) = ((symbols.chdb_result_buffer)(raw), (symbols.chdb_result_length)(raw));
            if start.is_null() { &[] } else { std::slice::from_raw_parts(start.cast(), length) }
        }
    }
}

/// A running SELECT; dropping it before its end cancels it.
#[derive(Debug)]
pub(crate) struct Stream<'c> {
    connection: &'c mut Connection,
    query: Answer,
    ended: bool,
}

impl Stream<'_> {
    /// The next block, or `None` after the last.
    ///
    /// # Errors
    /// The engine's exception; the stream has ended then.
    pub(crate) fn next_block(&mut self) -> Result<Option<Answer>, EngineError> {
        if self.ended {
            return Ok(None);
        }
        let fetch = self.connection.engine.symbols.chdb_stream_fetch_result;
        // SAFETY: both handles are valid, and &mut self keeps others off the connection.
        let raw = unsafe { fetch(self.connection.raw(), self.query.raw.as_ptr()) };
        let block = Answer::take(&self.connection.engine, raw);
        self.ended = block.as_ref().map_or(true, |answer| answer.as_ref().is_empty());
        block.map(|answer| (!self.ended).then_some(answer))
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        if !self.ended {
            // SAFETY: both handles are valid; the query is cancelled once, before its handle is destroyed.
            unsafe {
                (self.connection.engine.symbols.chdb_stream_cancel_query)(
                    self.connection.raw(),
                    self.query.raw.as_ptr(),
                );
            }
        }
    }
}

/// A running INSERT; dropping it before [`Insert::finish`] cancels it.
#[derive(Debug)]
pub(crate) struct Insert<'c> {
    connection: &'c mut Connection,
    raw: RawInsert,
    finished: bool,
}

impl Insert<'_> {
    /// Gives the engine the next bytes of the data; rows may be cut anywhere.
    ///
    /// # Errors
    /// The engine's exception, such as a value it cannot parse.
    pub(crate) fn append(&mut self, data: &[u8]) -> Result<(), EngineError> {
        let append = self.connection.engine.symbols.chdb_stream_append;
        // SAFETY: data is passed with its length and copied by the engine.
        match unsafe { append(self.raw, data.as_ptr().cast(), data.len()) } {
            0 => Ok(()),
            _ => Err(EngineError(self.error().unwrap_or_else(|| "the engine refused the data".into()))),
        }
    }

    /// Ends the data and waits until every row is committed.
    ///
    /// # Errors
    /// The engine's exception; nothing of the last block is written then.
    pub(crate) fn finish(mut self) -> Result<Stats, EngineError> {
        self.finished = true;
        // SAFETY: the stream is valid and ended once; it is destroyed by drop.
        let raw = unsafe { (self.connection.engine.symbols.chdb_stream_done)(self.raw) };
        Answer::take(&self.connection.engine, raw).map(|answer| answer.stats())
    }

    fn error(&self) -> Option<String> {
        // SAFETY: the stream is valid; the message belongs to it and is copied.
        unsafe { text((self.connection.engine.symbols.chdb_stream_insert_error)(self.raw)) }
    }
}

impl Drop for Insert<'_> {
    fn drop(&mut self) {
        let symbols = &self.connection.engine.symbols;
        // SAFETY: the stream is valid, cancelled only if it was not ended, and destroyed once.
        unsafe {
            if !self.finished {
                (symbols.chdb_stream_cancel_insert)(self.raw);
            }
            (symbols.chdb_destroy_insert_stream)(self.raw);
        }
    }
}
