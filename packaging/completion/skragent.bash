# bash completion of skragent(1). Installed as
# /usr/share/bash-completion/completions/skragent; needs nothing but bash.
# tests/unit/test_completion_bash.py compares it with the parser.

# Print the names of keys: those of the agent, which has two seconds to answer, or those
# of the configuration if it is readable. Never asks for a password, never fails.
_skragent_keys() {
  local -a where=()
  local i file=/etc/skragent/skragent.toml names=
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${COMP_WORDS[i]} in
      --socket | --config)
        local value=${COMP_WORDS[i + 1]}
        [[ $value == '=' ]] && value=${COMP_WORDS[i + 2]}
        where=("${COMP_WORDS[i]}" "$value")
        [[ ${COMP_WORDS[i]} == --config ]] && file=$value
        ;;
    esac
  done
  names=$(timeout -k 1 2 "$1" status --json "${where[@]}" </dev/null 2>/dev/null |
    sed -n 's/^ *"name": "\([A-Za-z0-9_-]*\)",\{0,1\}$/\1/p')
  if [[ -z $names && -f $file && -r $file ]]; then
    names=$(timeout 1 head -c 1048576 -- "$file" 2>/dev/null |
      sed -n 's/^\[keys\.\([A-Za-z0-9_-]*\)\].*/\1/p')
  fi
  printf '%s\n' "$names"
}

_skragent_files() {
  compopt -o filenames 2>/dev/null
  local IFS=$'\n'
  COMPREPLY=($(compgen "$1" -- "$2"))
}

_skragent() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
  local command= i
  COMPREPLY=()
  # bash cuts --option=value at the `=`.
  if [[ $cur == '=' ]]; then
    cur=
  elif [[ $prev == '=' ]]; then
    prev=${COMP_WORDS[COMP_CWORD - 2]}
  fi
  for ((i = 1; i < COMP_CWORD; i++)); do
    if [[ ${COMP_WORDS[i]} != -* ]]; then
      command=${COMP_WORDS[i]}
      break
    fi
  done

  case $command:$prev in
    get:--format)
      COMPREPLY=($(compgen -W 'jwk pem der raw' -- "$cur"))
      return
      ;;
    *:--dir)
      _skragent_files -d "$cur"
      return
      ;;
    *:--config | *:--socket | *:--output | *:--hcl | *:--certs | *:--quote | *:--roots)
      _skragent_files -f "$cur"
      return
      ;;
    get:--version | get:--wait | *:--timeout | *:--key | *:--latency | *:--fault | *:--at)
      return # any value
      ;;
  esac

  local options='-h --help' keys=
  case $command in
    '')
      options+=' --version'
      keys='run get status refresh reload drop wait check-config report emulator demo'
      ;;
    run | check-config) options+=' --config' ;;
    get)
      options+=' --format --version --wait --output --socket --config'
      keys=-
      ;;
    status) options+=' --json --watch --socket --config' ;;
    refresh)
      options+=' --wait --timeout --socket --config'
      keys=-
      ;;
    drop)
      options+=' --socket --config'
      keys=-
      ;;
    reload) options+=' --socket --config' ;;
    wait)
      options+=' --all --timeout --socket --config'
      keys=-
      ;;
    report) options+=' --hcl --certs --quote --roots --at --save --config --json' ;;
    emulator)
      options+=' --dir --key --latency --real-names --fault --list-faults'
      ;;
    demo) ;;
    *) return ;;
  esac
  if [[ $cur == -* ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$cur"))
    return
  fi
  [[ $keys == - ]] && keys=$(_skragent_keys "$1")
  COMPREPLY=($(compgen -W "$keys" -- "$cur"))
}

complete -F _skragent skragent
