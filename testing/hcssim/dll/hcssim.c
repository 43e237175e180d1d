/*
 * The forwarding DLL of the simulator: vmcompute.dll, computestorage.dll, computenetwork.dll and virtdisk.dll in one
 * source, compiled once for each name (VMCOMPUTE, COMPUTESTORAGE, COMPUTENETWORK, VIRTDISK).
 *
 * It knows how to carry a call and nothing else: every function sends its name and arguments to the broker
 * (testing/hcssim, a Go package that runs natively on Linux) and hands back what the broker answered. Whoever looks
 * for a rule of the Host Compute Service looks there.
 *
 * A connection carries one call; a callback and a stream of a process have a connection each, for as long as they live.
 * The wire is described in wire.inc.
 */
#define WIN32_LEAN_AND_MEAN
#define INITGUID
#include <winsock2.h>
#include <ws2tcpip.h>
#include <windows.h>
#include <objbase.h>
#include <stdarg.h>
#include <stdio.h>

#define EXPORT __declspec(dllexport)
#define SERVICE_GONE ((HRESULT)0x800706BA) /* RPC_S_SERVER_UNAVAILABLE: what a stopped vmcompute service gives */

#include "wire.inc"

/* The broker's port and secret stand in a file of the prefix, so that a process with an environment of its own finds
   them too. */
static BOOL broker(DWORD *port, char secret[64])
{
    WCHAR path[MAX_PATH];
    char text[128] = {0};
    DWORD size = 0;
    GetSystemDirectoryW(path, MAX_PATH - 16);
    lstrcatW(path, L"\\hcssim.broker");
    HANDLE file = CreateFileW(path, GENERIC_READ, FILE_SHARE_READ, NULL, OPEN_EXISTING, 0, NULL);
    if (file == INVALID_HANDLE_VALUE) return FALSE;
    ReadFile(file, text, sizeof text - 1, &size, NULL);
    CloseHandle(file);
    return sscanf(text, "%lu %63s", port, secret) == 2;
}

static SOCKET dial(const char *purpose)
{
    DWORD port;
    char secret[64];
    return broker(&port, secret) ? connect_broker(port, secret, purpose) : INVALID_SOCKET;
}

/* The first call opens a connection that stays: its end tells the broker that this process is dead. */
static void attend(void)
{
    static INIT_ONCE once = INIT_ONCE_STATIC_INIT;
    static SOCKET life = INVALID_SOCKET;
    PVOID context;
    BOOL pending;
    if (!InitOnceBeginInitialize(&once, 0, &pending, &context) || !pending) return;
    life = dial("client");
    if (life != INVALID_SOCKET) { /* the broker answers when it knows this process */
        message m;
        receive_message(life, &m);
        release(&m);
    }
    InitOnceComplete(&once, life == INVALID_SOCKET ? INIT_ONCE_INIT_FAILED : 0, NULL);
}

/* ---- calls ---- */

/* privileges tells which of the privileges for backup, restore and security this thread has enabled: bits 1, 2, 4. */
static UINT64 privileges(void)
{
    static const PCWSTR names[] = {L"SeBackupPrivilege", L"SeRestorePrivilege", L"SeSecurityPrivilege"};
    BYTE buffer[4096];
    DWORD size;
    HANDLE token;
    UINT64 enabled = 0;
    if (!OpenThreadToken(GetCurrentThread(), TOKEN_QUERY, TRUE, &token) &&
        !OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &token)) return 0;
    if (GetTokenInformation(token, TokenPrivileges, buffer, sizeof buffer, &size)) {
        TOKEN_PRIVILEGES *all = (TOKEN_PRIVILEGES *)buffer;
        for (int i = 0; i < 3; i++) {
            LUID id;
            if (!LookupPrivilegeValueW(NULL, names[i], &id)) continue;
            for (DWORD j = 0; j < all->PrivilegeCount; j++)
                if (all->Privileges[j].Luid.LowPart == id.LowPart && (all->Privileges[j].Attributes & SE_PRIVILEGE_ENABLED))
                    enabled |= 1 << i;
        }
    }
    CloseHandle(token);
    return enabled;
}

static HRESULT exchange(message *request, message *reply)
{
    HRESULT hr = SERVICE_GONE;
    attend();
    SOCKET s = dial("call");
    memset(reply, 0, sizeof *reply);
    if (s != INVALID_SOCKET) {
        if (send_message(s, request) && receive_message(s, reply)) hr = (HRESULT)take_number(reply);
        closesocket(s);
    }
    release(request);
    return hr;
}

typedef struct { GUID id; ULONG flags; PCWSTR path; } layer_descriptor;

/* begin starts a request. In the format, w is a string, n a number, g a GUID, l layers (descriptors and their count). */
static void begin(message *m, const char *function, const char *format, va_list *args)
{
    memset(m, 0, sizeof *m);
    put_text(m, function);
    put_number(m, privileges());
    for (; *format && *format != '>'; format++) {
        if (*format == 'w') put_wide(m, va_arg(*args, PCWSTR));
        if (*format == 'n') put_number(m, va_arg(*args, UINT64));
        if (*format == 'g') put(m, va_arg(*args, GUID *), sizeof(GUID));
        if (*format == 'l') {
            layer_descriptor *layers = va_arg(*args, layer_descriptor *);
            UINT64 count = va_arg(*args, UINT64);
            put_number(m, count);
            for (UINT64 i = 0; i < count; i++) {
                put(m, &layers[i].id, sizeof(GUID));
                put_number(m, layers[i].flags);
                put_wide(m, layers[i].path);
            }
        }
    }
}

/* forward makes a call. The arguments before '>' go to the broker; behind it are the results: H a handle, N a 32-bit
   number, W a string, G a GUID. A result may go nowhere (NULL). */
static HRESULT forward(const char *function, const char *format, ...)
{
    message request, reply;
    va_list args;
    va_start(args, format);
    begin(&request, function, format, &args);
    HRESULT hr = exchange(&request, &reply);
    const char *results = strchr(format, '>');
    for (results = results ? results + 1 : ""; *results; results++) {
        void *to = va_arg(args, void *);
        if (*results == 'W') {
            PWSTR text = take_wide(&reply);
            if (to) *(PWSTR *)to = text; else CoTaskMemFree(text);
        } else if (*results == 'G') {
            DWORD size;
            const BYTE *field = take(&reply, &size);
            if (to && size == sizeof(GUID)) memcpy(to, field, size);
        } else {
            UINT64 number = take_number(&reply);
            if (to && *results == 'H') *(UINT64 *)to = number;
            if (to && *results == 'N') *(UINT32 *)to = (UINT32)number;
        }
    }
    va_end(args);
    release(&reply);
    return hr;
}

#ifdef VMCOMPUTE
#include "vmcompute.inc"
#endif
#ifdef COMPUTESTORAGE
#include "computestorage.inc"
#endif
#ifdef COMPUTENETWORK
#include "computenetwork.inc"
#endif
#ifdef VIRTDISK
#include "virtdisk.inc"
#endif
