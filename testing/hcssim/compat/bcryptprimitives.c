/*
 * bcryptprimitives.dll for Wine 8, which has none: every program that Go 1.21 or later builds loads it first of all.
 * So it is also where four gaps of Wine 8 are closed without touching the program under test:
 *
 *   1. ProcessPrng is missing, and Go's runtime stops without it.
 *   2. NtSetInformationFile does not know class 64 (FileDispositionInformationEx), with which os.RemoveAll deletes.
 *   3. BackupRead and BackupWrite do nothing; the import of layers is made of them.
 *   4. NtCreateNamedPipeFile makes an instance that listens also when neither read nor write access is asked for.
 *      Windows makes it disconnected; go-winio reserves a pipe's name by one that nobody serves.
 *
 * And one that is the simulator's own: the volume of a scratch that hcsshim has attached to expand it is a file here, as
 * long as the volume, and answers what a volume is asked then.
 *
 * It hooks by changing what GetProcAddress finds, and only under Wine: on Windows it refuses to load. It is for tests
 * and is never shipped.
 */
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#include <winternl.h>
#include <ntsecapi.h>

#define EXPORT __declspec(dllexport)

#ifndef STATUS_SUCCESS
#define STATUS_SUCCESS ((NTSTATUS)0)
#endif

EXPORT BOOL WINAPI ProcessPrng(BYTE *buffer, SIZE_T size)
{
    while (size) {
        ULONG some = size > 1 << 20 ? 1 << 20 : (ULONG)size;
        if (!SystemFunction036(buffer, some)) return FALSE; /* RtlGenRandom */
        buffer += some, size -= some;
    }
    return TRUE;
}

/* ---- deletion ---- */

typedef NTSTATUS(WINAPI *set_information)(HANDLE, IO_STATUS_BLOCK *, void *, ULONG, ULONG);
static set_information real_set_information;

#define DISPOSITION 13    /* FileDispositionInformation: one byte */
#define DISPOSITION_EX 64 /* FileDispositionInformationEx: flags */
#define EX_DELETE 1
#define EX_IGNORE_READONLY 0x10

static NTSTATUS WINAPI NtSetInformationFile_(HANDLE file, IO_STATUS_BLOCK *io, void *data, ULONG size, ULONG class)
{
    if (class != DISPOSITION_EX || size < 4) return real_set_information(file, io, data, size, class);
    ULONG flags = *(ULONG *)data;
    BYTE delete = flags & EX_DELETE;
    if (flags & EX_IGNORE_READONLY) {
        FILE_BASIC_INFO basic = {0};
        if (GetFileInformationByHandleEx(file, FileBasicInfo, &basic, sizeof basic) &&
            basic.FileAttributes & FILE_ATTRIBUTE_READONLY) {
            FILE_BASIC_INFO writable = {0};
            writable.FileAttributes = (basic.FileAttributes & ~FILE_ATTRIBUTE_READONLY) | FILE_ATTRIBUTE_NORMAL;
            SetFileInformationByHandle(file, FileBasicInfo, &writable, sizeof writable);
        }
    }
    return real_set_information(file, io, &delete, 1, DISPOSITION);
}

/* ---- backup streams ---- */

/* A backup stream is a sequence of streams, each with this header (WIN32_STREAM_ID), a name and its data. Of these only
   the file's data matter here: Wine has no place for the others. */
#pragma pack(push, 1)
typedef struct { DWORD id, attributes; INT64 size; DWORD name; } stream_header;
#pragma pack(pop)
#define DATA 1
#define HEADER 20

typedef struct { stream_header header; DWORD at; INT64 left; DWORD name_left; BOOL begun; } backup;

static BOOL WINAPI BackupWrite_(HANDLE file, BYTE *buffer, DWORD size, DWORD *written, BOOL abort, BOOL security, void **context)
{
    backup *b = *context;
    if (abort) {
        if (b) HeapFree(GetProcessHeap(), 0, b);
        *context = NULL;
        return TRUE;
    }
    *written = 0;
    if (!b) b = *context = HeapAlloc(GetProcessHeap(), HEAP_ZERO_MEMORY, sizeof *b);
    while (*written < size) {
        BYTE *from = buffer + *written;
        DWORD n = size - *written;
        if (b->at < HEADER) {
            if (n > HEADER - b->at) n = HEADER - b->at;
            memcpy((BYTE *)&b->header + b->at, from, n);
            b->at += n;
            if (b->at == HEADER) b->left = b->header.size, b->name_left = b->header.name;
        } else if (b->name_left) {
            if (n > b->name_left) n = b->name_left;
            b->name_left -= n;
        } else if (b->left) {
            if (n > b->left) n = (DWORD)b->left;
            if (b->header.id == DATA) {
                DWORD done;
                for (DWORD at = 0; at < n; at += done)
                    if (!WriteFile(file, from + at, n - at, &done, NULL)) return FALSE;
            }
            b->left -= n;
        }
        *written += n;
        if (b->at == HEADER && !b->name_left && !b->left) b->at = 0;
    }
    return TRUE;
}

static BOOL WINAPI BackupRead_(HANDLE file, BYTE *buffer, DWORD size, DWORD *read, BOOL abort, BOOL security, void **context)
{
    backup *b = *context;
    if (abort) {
        if (b) HeapFree(GetProcessHeap(), 0, b);
        *context = NULL;
        return TRUE;
    }
    *read = 0;
    if (!b) {
        BY_HANDLE_FILE_INFORMATION info;
        if (!GetFileInformationByHandle(file, &info)) return FALSE;
        b = *context = HeapAlloc(GetProcessHeap(), HEAP_ZERO_MEMORY, sizeof *b);
        b->header.id = DATA;
        b->header.size = b->left = (INT64)info.nFileSizeHigh << 32 | info.nFileSizeLow;
        if (info.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY || !b->left) b->at = HEADER, b->left = 0;
    }
    if (b->at < HEADER) {
        DWORD n = size < HEADER - b->at ? size : HEADER - b->at;
        memcpy(buffer, (BYTE *)&b->header + b->at, n);
        b->at += n, *read = n;
    }
    if (b->at == HEADER && b->left && *read < size) {
        DWORD n = size - *read, done;
        if (n > b->left) n = (DWORD)b->left;
        if (!ReadFile(file, buffer + *read, n, &done, NULL)) return FALSE;
        b->left -= done, *read += done;
    }
    return TRUE;
}

/* ---- pipes ---- */

typedef NTSTATUS(WINAPI *create_pipe)(HANDLE *, ULONG, OBJECT_ATTRIBUTES *, IO_STATUS_BLOCK *, ULONG, ULONG, ULONG, ULONG,
                                      ULONG, ULONG, ULONG, ULONG, ULONG, LARGE_INTEGER *);
static create_pipe real_create_pipe;

/* An instance whose only client has left is one that no other client gets. */
static NTSTATUS WINAPI NtCreateNamedPipeFile_(HANDLE *pipe, ULONG access, OBJECT_ATTRIBUTES *oa, IO_STATUS_BLOCK *io,
                                             ULONG share, ULONG disposition, ULONG options, ULONG type, ULONG read,
                                             ULONG completion, ULONG instances, ULONG in, ULONG out, LARGE_INTEGER *timeout)
{
    NTSTATUS status = real_create_pipe(pipe, access, oa, io, share, disposition, options, type, read, completion,
                                       instances, in, out, timeout);
    if (status == STATUS_SUCCESS && !(access & (GENERIC_READ | GENERIC_WRITE | FILE_READ_DATA | FILE_WRITE_DATA))) {
        OBJECT_ATTRIBUTES name = *oa;
        IO_STATUS_BLOCK ignored;
        HANDLE client;
        name.SecurityDescriptor = NULL;
        if (NtOpenFile(&client, SYNCHRONIZE, &name, &ignored, FILE_SHARE_READ | FILE_SHARE_WRITE, 0) == STATUS_SUCCESS)
            CloseHandle(client);
    }
    return status;
}

/* ---- volumes that are files ---- */

typedef BOOL(WINAPI *io_control)(HANDLE, DWORD, void *, DWORD, void *, DWORD, DWORD *, OVERLAPPED *);
typedef BOOL(WINAPI *disk_space)(PCWSTR, ULARGE_INTEGER *, ULARGE_INTEGER *, ULARGE_INTEGER *);
static io_control real_io_control;
static disk_space real_disk_space;

#define GET_LENGTH_INFO 0x0007405C
#define EXTEND_VOLUME 0x000900F0
#define UNEXPANDED (20ull << 30) /* what the file system of a scratch has before it is extended */

static BOOL WINAPI DeviceIoControl_(HANDLE file, DWORD code, void *in, DWORD in_size, void *out, DWORD out_size, DWORD *done,
                                    OVERLAPPED *overlapped)
{
    if (code == GET_LENGTH_INFO && out_size >= 8 && GetFileSizeEx(file, (LARGE_INTEGER *)out)) {
        if (done) *done = 8;
        return TRUE;
    }
    if (code == EXTEND_VOLUME && in_size >= 8) return TRUE;
    return real_io_control(file, code, in, in_size, out, out_size, done, overlapped);
}

static BOOL WINAPI GetDiskFreeSpaceExW_(PCWSTR path, ULARGE_INTEGER *mine, ULARGE_INTEGER *total, ULARGE_INTEGER *all)
{
    static const WCHAR volume[] = L"\\\\?\\Volume{";
    if (real_disk_space(path, mine, total, all)) return TRUE;
    for (int i = 0; volume[i]; i++)
        if (!path || path[i] != volume[i]) return FALSE;
    if (mine) mine->QuadPart = UNEXPANDED;
    if (total) total->QuadPart = UNEXPANDED;
    if (all) all->QuadPart = UNEXPANDED;
    return TRUE;
}

/* ---- hooks ---- */

/* near_code returns memory for code above a module, in reach of the 32-bit offsets of its export table. */
static BYTE *near_code(BYTE *module, SIZE_T size)
{
    for (UINT64 at = ((UINT64)module + 0x1000000) & ~0xffffull; at < (UINT64)module + 0x70000000; at += 0x10000) {
        BYTE *code = VirtualAlloc((void *)at, size, MEM_RESERVE | MEM_COMMIT, PAGE_EXECUTE_READWRITE);
        if (code) return code;
    }
    return NULL;
}

/* hook makes GetProcAddress find another function, and returns the one it found before. */
static void *hook(const WCHAR *dll, const char *name, void *replacement)
{
    BYTE *module = (BYTE *)GetModuleHandleW(dll);
    if (!module) return NULL;
    IMAGE_NT_HEADERS *headers = (IMAGE_NT_HEADERS *)(module + ((IMAGE_DOS_HEADER *)module)->e_lfanew);
    IMAGE_EXPORT_DIRECTORY *exports =
        (IMAGE_EXPORT_DIRECTORY *)(module + headers->OptionalHeader.DataDirectory[IMAGE_DIRECTORY_ENTRY_EXPORT].VirtualAddress);
    DWORD *functions = (DWORD *)(module + exports->AddressOfFunctions), *names = (DWORD *)(module + exports->AddressOfNames);
    WORD *ordinals = (WORD *)(module + exports->AddressOfNameOrdinals);
    for (DWORD i = 0; i < exports->NumberOfNames; i++) {
        if (lstrcmpA((char *)module + names[i], name)) continue;
        void *old = (void *)GetProcAddress((HMODULE)module, name);
        BYTE *code = near_code(module, 16);
        DWORD *slot = &functions[ordinals[i]], protection;
        if (!code || !VirtualProtect(slot, 4, PAGE_READWRITE, &protection)) return NULL;
        code[0] = 0x48, code[1] = 0xb8; /* mov rax, replacement */
        memcpy(code + 2, &replacement, 8);
        code[10] = 0xff, code[11] = 0xe0; /* jmp rax */
        *slot = (DWORD)(code - module);
        VirtualProtect(slot, 4, protection, &protection);
        return old;
    }
    return NULL;
}

BOOL WINAPI DllMain(HINSTANCE self, DWORD reason, void *reserved)
{
    if (reason != DLL_PROCESS_ATTACH) return TRUE;
    if (!GetProcAddress(GetModuleHandleW(L"ntdll.dll"), "wine_get_version")) return FALSE;
    DisableThreadLibraryCalls(self);
    real_set_information = hook(L"ntdll.dll", "NtSetInformationFile", NtSetInformationFile_);
    real_create_pipe = hook(L"ntdll.dll", "NtCreateNamedPipeFile", NtCreateNamedPipeFile_);
    real_io_control = hook(L"kernel32.dll", "DeviceIoControl", DeviceIoControl_);
    real_disk_space = hook(L"kernel32.dll", "GetDiskFreeSpaceExW", GetDiskFreeSpaceExW_);
    return real_set_information && real_create_pipe && real_io_control && real_disk_space &&
           hook(L"kernel32.dll", "BackupRead", BackupRead_) && hook(L"kernel32.dll", "BackupWrite", BackupWrite_);
}
